"""Device functions: the roundings and scale rules of NVFP4, bit for bit those of ``reference.py``.

Roundings are integer arithmetic on the bits of float32, because conversions to eight bits differ
between GPUs and are wrong in Triton's interpreter. Launch with ``enable_fp_fusion=False``: a fused
multiply-add rounds once where the reference rounds twice.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253

FLOAT32_MAX = tl.constexpr(3.4028234663852886e38)
NAN_BYTE = tl.constexpr(0x7F)
SIGN_BITS = tl.constexpr(0b1101_0111_1110_1000)  # bit i is set where hadamard.SIGNS[i] is -1


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
    """The float32 value of a non-negative E4M3 byte; 0x7F is NaN."""
    normal = ((byte << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    value = tl.where(byte < 8, byte.to(tl.float32) * 0.001953125, normal)
    return tl.where(byte == NAN_BYTE, float("nan"), value)


@triton.jit
def magnitude(x):
    """What is to be rounded: |x|, at most 6."""
    return tl.minimum(tl.abs(x), 6.0)


@triton.jit
def rounding_offset(y):
    """What makes float32 round a magnitude to the E2M1 grid, ties to the even code, when added.

    The sum has the grid's step, 0.5 below 2, 1 below 4, 2 below 6, as its last place, and the code
    in its last bits. Taking the offset away again leaves the rounded magnitude.
    """
    return tl.where(y < 2.0, 4194304.0, tl.where(y < 4.0, 8388610.0, 16777224.0))


@triton.jit
def nearest_code(x):
    """The magnitude code 0 to 7 nearest to |x|, int32."""
    y = magnitude(x)
    return (y + rounding_offset(y)).to(tl.int32, bitcast=True) & 7


@triton.jit
def stochastic_code(x, uniform):
    """The magnitude code below |x|, or above where ``uniform`` is less than the distance."""
    y = magnitude(x)
    per_unit = tl.where(y < 2.0, 2.0, tl.where(y < 4.0, 1.0, 0.5))
    first = tl.where(y < 2.0, 0, tl.where(y < 4.0, 2, 4))
    steps = y * per_unit
    lower = steps.to(tl.int32)
    up = uniform < steps - lower.to(tl.float32)
    return first + lower + up.to(tl.int32)


@triton.jit
def code_value(code):
    """The float32 value of a code 0 to 15 (int32), divided by 2**14: it goes through float16."""
    bits = ((code & 7) << 9) | ((code & 8) << 12)
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def tree_sum(x, N: tl.constexpr, T: tl.constexpr):
    """The sum of each row of [T, N], N 16 or 256: neighbours first, then those of sums, ..."""
    for level in tl.static_range(4 if N == 16 else 8):
        first, second = tl.split(tl.reshape(x, (T, N >> (level + 1), 2)))
        x = first + second
    return tl.reshape(x, (T,))


@triton.jit
def encode_factor(byte, inverse):
    """What a block is multiplied by to lie on the E2M1 grid: min(1 / (s * (1 / S)), FLT_MAX)."""
    step = e4m3_value(byte) * inverse
    return tl.minimum(tl.div_rn(tl.full(step.shape, 1.0, tl.float32), step), FLOAT32_MAX)


@triton.jit
def block_error(x, byte, inverse, decode, RULE: tl.constexpr, N: tl.constexpr):
    """The error of blocks of N values by the rule's measure, if their scale were ``byte``."""
    y = magnitude(x * encode_factor(byte, inverse)[:, None])
    offset = rounding_offset(y)
    rounded = (y + offset) - offset
    error = (rounded * e4m3_value(byte)[:, None]) * decode - tl.abs(x)
    if RULE == "four_over_six_mse":
        return tree_sum(error * error, N, x.shape[0])
    elif RULE == "four_over_six_mae":
        return tree_sum(tl.abs(error), N, x.shape[0])
    else:
        return tl.max(tl.abs(error), axis=1)


@triton.jit
def quantize_blocks(
    x,
    amax,
    uniform,
    RULE: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    N: tl.constexpr,
):
    """Codes [T, N] and scale bytes [T], int32, of T blocks of N float32 values.

    ``amax`` is [T], or [1] where all blocks have the same.
    """
    # as integers, magnitudes keep their order, and NaN is the largest
    largest = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)
    block_amax = largest.to(tl.float32, bitcast=True)
    invalid = (amax != amax) | (block_amax != block_amax)
    full = tl.full(amax.shape, FULL, tl.float32)
    scale = tl.where(amax == 0, 1.0, tl.minimum(tl.div_rn(full, amax), FLOAT32_MAX))
    inverse = tl.div_rn(tl.full(amax.shape, 1.0, tl.float32), scale)
    if RULE == "amax":
        byte = e4m3_byte(block_amax * (scale * (1.0 / TARGET)))
    else:
        base = tl.div_rn(block_amax, tl.full(block_amax.shape, 6.0, tl.float32)) * scale
        six, four = e4m3_byte(base), e4m3_byte(base * 1.5)
        decode = (amax * (1.0 / FULL))[:, None]
        error_six = block_error(x, six, inverse, decode, RULE, N)
        error_four = block_error(x, four, inverse, decode, RULE, N)
        byte = tl.where(error_four < error_six, four, six)
    scaled = x * encode_factor(byte, inverse)[:, None]
    code = stochastic_code(scaled, uniform) if STOCHASTIC else nearest_code(scaled)
    code |= tl.where(scaled < 0, 8, 0)
    return tl.where(invalid[:, None], 0, code), tl.where(invalid, NAN_BYTE, byte)


@triton.jit
def pack(code, T: tl.constexpr, N: tl.constexpr):
    """Two codes a byte, the even one in the low nibble: [T, N // 2] uint8 from [T, N] int32."""
    low, high = tl.split(tl.reshape(code, (T, N // 2, 2)))
    return (low | (high << 4)).to(tl.uint8)


@triton.jit
def uniforms(quad, seed, T: tl.constexpr, Q: tl.constexpr):
    """Numbers in [0, 1) of the elements of quads [T, Q]: [T, 4 Q]; see ``random_uniform``.

    Philox4x32-10 with counter (quad, seed low, seed high, 0) and key 0.
    """
    a = quad.to(tl.uint32)
    b = tl.zeros_like(a) + (seed & 0xFFFFFFFF).to(tl.uint32)
    c = tl.zeros_like(a) + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    d = tl.zeros_like(a)
    first = tl.full((), 0xD2511F53, tl.uint32)
    second = tl.full((), 0xCD9E8D57, tl.uint32)
    key_a = tl.zeros_like(a)
    key_b = tl.zeros_like(a)
    for _ in tl.static_range(10):
        high_a, low_a = tl.umulhi(a, first + tl.zeros_like(a)), a * first
        high_c, low_c = tl.umulhi(c, second + tl.zeros_like(a)), c * second
        a, b, c, d = high_c ^ b ^ key_a, low_c, high_a ^ d ^ key_b, low_a
        key_a += 0x9E3779B9
        key_b += 0xBB67AE85
    words = tl.join(tl.join(a, c), tl.join(b, d))  # [T, Q, 2, 2]: a, b, c, d in order
    return (tl.reshape(words, (T, 4 * Q)) >> 8).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def rotate_blocks(x, T: tl.constexpr):
    """The Hadamard transform of T blocks of 16 float32 values; see ``hadamard.rotate``."""
    negative = (tl.full((16,), SIGN_BITS, tl.int32) >> tl.arange(0, 16)) & 1
    x = x * tl.where(negative == 1, -1.0, 1.0)[None, :]
    for level in tl.static_range(4):
        pairs = tl.reshape(x, (T, 8 >> level, 2, 1 << level))
        first, second = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
        pairs = tl.permute(tl.join(first + second, first - second), (0, 1, 3, 2))
        x = tl.reshape(pairs, (T, 16))
    return x * 0.25
