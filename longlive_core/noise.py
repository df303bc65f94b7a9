"""Gaussian noise as a function of (seed, latent frame): no state, no length, no rank, no device.

Frame ``f`` of seed ``s`` holds the same numbers whether it is drawn alone, in a block, in a minute
of video, or on one of many devices. A counter-based generator gives 32-bit integers: Philox4x32-10
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11), with

    key      seed, low and high word
    counter  (element // 4, frame low word, frame high word, 0)

Box and Muller's transform turns pairs of integers into pairs of normal numbers. It is computed in
float64 from additions, multiplications, divisions and square roots alone, which IEEE 754 rounds in
one way only; library logarithms and cosines differ between processors in their last bit.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from longlive_core.checks import shown, whole
from longlive_core.tensor_checks import place

PhiloxWords = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four 32-bit words, as int64 tensors of values from 0 to 2**32 - 1."""

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_LOG_TERMS = 9  # of atanh's series: below 1e-15 on the reduced range
_CIRCLE_TERMS = 8  # of the sine's and cosine's series up to a quarter of pi: likewise


def gaussian(
    seed: int,
    frames: Sequence[int],
    shape: tuple[int, ...],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "frames ..."]:
    """Standard normal noise [len(frames), *shape] for these latent frames of this seed.

    Computed on the CPU in float32 and moved: the same bytes on every device;
    another ``dtype`` holds the same numbers, rounded. ``frames`` are absolute indices in the video,
    in any order. The element order is that of ``shape``: keep it fixed for a model. NumPy's
    integers and integer tensors of one element are numbers as well. Raises ``ValueError`` for a
    seed outside 64 bits or not whole, a negative frame, an empty shape or a type that is not
    floating.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"noise of type {shown(dtype)}: normal numbers are fractions. Pass a floating type, "
            f"such as torch.bfloat16."
        )
    why = "it is Philox's key, of 64 bits. Pass a whole number from 0 to 2**64 - 1."
    seed = whole("a seed of noise", seed, at_least=0, at_most=2**64 - 1, why=why)
    why, most = "frames are counted from 0, and its number is part of Philox's counter.", 2**63 - 1
    for name, several in (("frames", frames), ("shape", shape)):
        if not isinstance(several, Iterable) or isinstance(several, str | bytes | Mapping):
            raise ValueError(
                f"{name} of noise are several whole numbers, got {shown(several)}: write "
                f"range(8), or (3, 4)."
            )
    device = place("noise's device", device)
    frames = [whole("a frame of noise", f, at_least=0, at_most=most, why=why) for f in frames]
    why = "it is a size of one frame's noise."
    shape = tuple(whole("a size of noise", size, at_least=0, why=why) for size in shape)
    elements = math.prod(shape)
    if not 0 < elements < 2**34:
        raise ValueError(
            f"noise needs a shape of 1 to 2**34 - 1 elements, got {shape} with {elements}: "
            f"one frame's elements share a 32-bit counter."
        )
    quads = torch.arange(-(-elements // 4), dtype=torch.int64, device="cpu")
    noise = torch.empty(len(frames), elements, dtype=torch.float32, device="cpu")
    for row, frame in zip(noise, frames, strict=True):
        row.copy_(_normal_frame(seed, frame, quads).flatten()[:elements])
    return noise.view(len(frames), *shape).to(device, dtype)


def gaussian_batch(
    seeds: Sequence[int],
    frames: Sequence[int],
    shape: tuple[int, ...],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "seeds frames ..."]:
    """Noise of several videos [len(seeds), len(frames), *shape], each as ``gaussian`` draws it."""
    if not isinstance(seeds, Sequence | Tensor) or isinstance(seeds, str):
        raise ValueError(f"seeds of noise are whole numbers, got {shown(seeds)}: write [7], say.")
    if not len(seeds):
        raise ValueError("noise of no seeds: each video of a batch has one. Pass at least one.")
    return torch.stack([gaussian(s, frames, shape, device=device, dtype=dtype) for s in seeds])


def philox4x32(counter: PhiloxWords, key: tuple[int, int]) -> PhiloxWords:
    """Philox4x32-10: four 32-bit words from four, under a key of two.

    Words are int64 tensors with values from 0 to 2**32 - 1; they broadcast against one another.
    """
    a, b, c, d = counter
    key_a, key_b = key
    for _ in range(_ROUNDS):
        high_a, low_a = _wide_product(a, _MULTIPLIERS[0])
        high_c, low_c = _wide_product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ key_a, low_c, high_a ^ d ^ key_b, low_a
        key_a = (key_a + _KEY_STEPS[0]) & _WORD
        key_b = (key_b + _KEY_STEPS[1]) & _WORD
    return a, b, c, d


def _wide_product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """The high and low words of a 64-bit product; int64 wraps, and the bits are right."""
    product = word * multiplier
    return (product >> 32) & _WORD, product & _WORD


def _normal_frame(
    seed: int, frame: int, quads: Int64[Tensor, " quads"]
) -> Float[Tensor, "quads 4"]:
    words = (
        quads,
        torch.full_like(quads, frame & _WORD),
        torch.full_like(quads, frame >> 32),
        torch.zeros_like(quads),
    )
    a, b, c, d = philox4x32(words, (seed & _WORD, seed >> 32))
    return torch.stack((*_normal_pair(a, b), *_normal_pair(c, d)), dim=-1).float()


def _normal_pair(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Box and Muller: a point at an exponential squared radius and a uniform angle."""
    radius = torch.sqrt(-2.0 * _log_uniform(radius_word))
    cosine, sine = _point_on_circle(angle_word)
    return radius * cosine, radius * sine


def _log_uniform(word: Tensor) -> Tensor:
    """ln((word + 1/2) / 2**32), by ln m = 2 atanh((m - 1) / (m + 1)) on [sqrt(1/2), sqrt(2))."""
    mantissa, exponent = torch.frexp((2 * word + 1).double())
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, 2 * mantissa, mantissa)
    exponent = (exponent - low.to(exponent.dtype) - 33).double()
    s = (mantissa - 1) / (mantissa + 1)
    series = _polynomial(s * s, [2 / (2 * n + 1) for n in range(_LOG_TERMS)])
    return exponent * math.log(2) + s * series


def _point_on_circle(word: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of a uniform angle: a quarter from two bits, within it from thirty."""
    quarter = word >> 30
    within = ((word & 0x3FFFFFFF).double() + 0.5) * (2.0**-30)
    angle = (within - 0.5) * (math.pi / 2)
    square = angle * angle
    cosine = _polynomial(square, [(-1) ** n / math.factorial(2 * n) for n in range(_CIRCLE_TERMS)])
    sine = angle * _polynomial(
        square, [(-1) ** n / math.factorial(2 * n + 1) for n in range(_CIRCLE_TERMS)]
    )
    odd = (quarter & 1).bool()
    cosine, sine = torch.where(odd, -sine, cosine), torch.where(odd, cosine, sine)
    sign = 1.0 - (quarter & 2).double()
    return cosine * sign, sine * sign


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    """Horner's scheme, lowest power first, one rounding an operation."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x
        total = total + coefficient
    return total
