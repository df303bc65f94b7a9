"""Device functions: E4M3 bytes and the numbers that they stand for, by integer arithmetic.

Conversions to eight bits differ between GPUs and are wrong in Triton's interpreter.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253

NAN_BYTE = tl.constexpr(0x7F)


@triton.jit
def e4m3_byte(x):
    """Round non-negative float32 to E4M3, ties to even, saturating at 448: the byte as int32."""
    x = tl.minimum(x, 448.0)
    bits = x.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    # below 2**-6 steps are 2**-9: adding 2**23 rounds to an integer, in the lowest bits
    subnormal = (x * 512.0 + 8388608.0).to(tl.int32, bitcast=True) & 0xF
    return tl.where(x < 0.015625, subnormal, normal)


@triton.jit
def e4m3_value(byte):
    """The float32 value of a non-negative E4M3 byte (int32); 0x7F is NaN."""
    value = (byte << 7).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return tl.where(byte == NAN_BYTE, float("nan"), value)
