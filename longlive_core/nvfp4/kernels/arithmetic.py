"""Device functions: the roundings and scale rules of NVFP4, bit for bit those of ``reference.py``.

Roundings are integer arithmetic on the bits of float32. Launch with ``enable_fp_fusion=False``: a
fused multiply-add rounds once where the reference rounds twice.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253

from longlive_core.eight_bit.kernels.e4m3 import NAN_BYTE, e4m3_byte, e4m3_value

FLOAT32_MAX = tl.constexpr(3.4028234663852886e38)
SIGN_BITS = tl.constexpr(0b1101_0111_1110_1000)  # bit i is set where hadamard.SIGNS[i] is -1


@triton.jit
def magnitude(x):
    """What is to be rounded: |x|, at most 6."""
    return tl.minimum(tl.abs(x), 6.0)


@triton.jit
def rounding_offset(y):
    """What makes float32 round a magnitude to the E2M1 grid, ties to the even code, when added.

    The sum has the grid's step, 0.5 below 2, 1 below 4, 2 below 6, as its last place, and the code
    in its last bits. Taking the offset away again leaves the rounded magnitude.
    The offset is 2**22, 2**23 + 2 or 2**24 + 8: its bits are a line in the exponent of ``y``.
    """
    exponent = tl.maximum(y.to(tl.int32, bitcast=True), 0x3F800000) >> 23
    return (exponent * 8388610 + 184549122).to(tl.float32, bitcast=True)


@triton.jit
def offset_sum(x):
    """What is to be rounded plus its offset: the nearest code in the lowest three bits."""
    y = magnitude(x)
    return y + rounding_offset(y)


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
def fold_largest(x, N: tl.constexpr, T: tl.constexpr):
    """The largest of each row of [T, N], N 16 or 256: of neighbors, then of those, ...

    An order that does not depend on the layout: where the compiler has a row in two layouts, it
    sees one value, and works it out once.
    """
    for level in tl.static_range(4 if N == 16 else 8):
        first, second = tl.split(tl.reshape(x, (T, N >> (level + 1), 2)))
        x = tl.maximum(first, second)
    return tl.reshape(x, (T,))


@triton.jit
def add_four(x, R: tl.constexpr):
    """The sum of each row of [R, 4], one number after another."""
    even, odd = tl.split(tl.reshape(x, (R, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return ((first + second) + third) + fourth


@triton.jit
def add_eight(x, R: tl.constexpr):
    """The sum of each row of [R, 8], one number after another."""
    even, odd = tl.split(tl.reshape(x, (R, 4, 2)))
    zero_four, two_six = tl.split(tl.reshape(even, (R, 2, 2)))
    one_five, three_seven = tl.split(tl.reshape(odd, (R, 2, 2)))
    x0, x4 = tl.split(zero_four)
    x2, x6 = tl.split(two_six)
    x1, x5 = tl.split(one_five)
    x3, x7 = tl.split(three_seven)
    return ((((((x0 + x1) + x2) + x3) + x4) + x5) + x6) + x7


@triton.jit
def ordered_sum(x, N: tl.constexpr, T: tl.constexpr):
    """The sum of each row of [T, N], N 16 or 256, in the order of ``scale_rules.ordered_sum``."""
    if N == 16:
        first, second = tl.split(tl.permute(tl.reshape(x, (T, 2, 8)), (0, 2, 1)))
        x = first + second
    else:
        places = tl.permute(tl.reshape(x, (T, 8, 32)), (0, 2, 1))
        sums = add_eight(tl.reshape(places, (T * 32, 8)), T * 32)
        places = tl.permute(tl.reshape(sums, (T, 4, 8)), (0, 2, 1))
        x = add_four(tl.reshape(places, (T * 8, 4)), T * 8)
    return add_eight(tl.reshape(x, (T, 8)), T)


@triton.jit
def encode_factor(byte, inverse):
    """What a block is multiplied by to lie on the E2M1 grid: min(1 / (s * (1 / S)), FLT_MAX)."""
    step = e4m3_value(byte) * inverse
    return tl.minimum(tl.div_rn(tl.full(step.shape, 1.0, tl.float32), step), FLOAT32_MAX)


@triton.jit
def is_ordinary(amax):
    """Whether no number that ``read_back`` meets is subnormal or overflows: one answer for all."""
    return tl.min(((amax > 1e-30) & (amax < 1e30)).to(tl.int32), axis=0) == 1


@triton.jit
def read_back(value, byte, amax, FULL: tl.constexpr, ORDINARY: tl.constexpr):
    """``((value * s) * A) / FULL`` of values of the E2M1 grid, [T, N], rounded at each operation.

    A value is 1 or 1.5 times a power of two, and such a power changes no rounding of ordinary
    numbers: two divisions a block then serve all its values.
    """
    scale = e4m3_value(byte)
    if ORDINARY:
        full = tl.full(scale.shape, FULL, tl.float32)
        one = tl.div_rn(scale * amax, full)
        one_and_a_half = tl.div_rn((1.5 * scale) * amax, full)
        bits = value.to(tl.int32, bitcast=True)
        power = (bits & 0x7F800000).to(tl.float32, bitcast=True)
        return power * tl.where((bits & 0x400000) == 0, one[:, None], one_and_a_half[:, None])
    else:
        product = (value * scale[:, None]) * amax[:, None]
        return tl.div_rn(product, tl.full(product.shape, FULL, tl.float32))


@triton.jit
def block_error(
    x,
    byte,
    inverse,
    amax,
    ERROR: tl.constexpr,
    FULL: tl.constexpr,
    ORDINARY: tl.constexpr,
    N: tl.constexpr,
):
    """The error of blocks of N values by the measure ERROR, were their scale ``byte``.

    And the sums that their codes would come from.
    """
    y = magnitude(x * encode_factor(byte, inverse)[:, None])
    offset = rounding_offset(y)
    total = y + offset
    error = read_back(total - offset, byte, amax, FULL, ORDINARY) - tl.abs(x)
    if ERROR == "mean_squared":
        measure = ordered_sum(error * error, N, x.shape[0])
    elif ERROR == "mean_absolute":
        measure = ordered_sum(tl.abs(error), N, x.shape[0])
    else:
        tl.static_assert(ERROR == "largest_absolute", "a measure of errors without a case here")
        measure = fold_largest(tl.abs(error), N, x.shape[0])
    return measure, total


@triton.jit
def pack(code, T: tl.constexpr, N: tl.constexpr):
    """Eight codes a word, the first in the lowest bits: [T, N // 8] from [T, N], int32."""
    for level in tl.static_range(3):
        low, high = tl.split(tl.reshape(code, (T, N >> (level + 1), 2)))
        code = low | (high << (4 << level))
    return code


@triton.jit
def quantize_blocks(
    x,
    amax,
    uniform,
    ERROR: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ORDINARY: tl.constexpr,
    N: tl.constexpr,
):
    """Of T blocks of N float32 values: codes, eight a word, [T, N // 8], and scale bytes [T].

    ``amax`` is [T], or [1] where all blocks have the same; see ``is_ordinary``. ERROR is what
    decides between two scales, a ``BlockError``, or "none" where there is one, for TARGET.
    """
    # as integers, magnitudes keep their order, and NaN is the largest
    size = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    # errors of adaptive rules are folded as well, and so the compiler lays out blocks in two ways
    once = ERROR == "none" or N > 16
    largest = tl.max(size, axis=1) if once else fold_largest(size, N, x.shape[0])
    block_amax = largest.to(tl.float32, bitcast=True)
    invalid = (amax != amax) | (block_amax != block_amax)
    full = tl.full(amax.shape, FULL, tl.float32)
    scale = tl.where(amax == 0, 1.0, tl.minimum(tl.div_rn(full, amax), FLOAT32_MAX))
    inverse = tl.div_rn(tl.full(amax.shape, 1.0, tl.float32), scale)
    if ERROR == "none":
        byte = e4m3_byte(block_amax * (scale * (1.0 / TARGET)))
    else:
        base = tl.div_rn(block_amax, tl.full(block_amax.shape, 6.0, tl.float32)) * scale
        six, four = e4m3_byte(base), e4m3_byte(base * 1.5)
        error_six, total_six = block_error(x, six, inverse, amax, ERROR, FULL, ORDINARY, N)
        error_four, total_four = block_error(x, four, inverse, amax, ERROR, FULL, ORDINARY, N)
        take_four = error_four < error_six
        byte = tl.where(take_four, four, six)
    scaled = x * encode_factor(byte, inverse)[:, None]
    if STOCHASTIC:
        code = stochastic_code(scaled, uniform)
    elif ERROR == "none":
        code = offset_sum(scaled).to(tl.int32, bitcast=True) & 7
    else:
        total = tl.where(take_four[:, None], total_four, total_six)
        code = total.to(tl.int32, bitcast=True) & 7
    code |= ((scaled + 0.0).to(tl.int32, bitcast=True) >> 28) & 8  # -0.0 + 0.0 has no sign
    words = tl.where(invalid[:, None], 0, pack(code, x.shape[0], N))
    return words, tl.where(invalid, NAN_BYTE, byte)


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
