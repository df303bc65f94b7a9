"""Quantize and dequantize: the functions to call. The meaning is in ``reference.py``."""

import math
from collections import deque

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from longlive_core.checks import instance, real, text, whole
from longlive_core.nvfp4 import quantize_ops as quantize_ops  # registers torch.ops.longlive.nvfp4_*
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, check_format, config_text
from longlive_core.nvfp4.quantize_backends import DEQUANTIZE as DEQUANTIZE
from longlive_core.nvfp4.quantize_backends import QUANTIZE as QUANTIZE
from longlive_core.nvfp4.quantize_backends import QUANTIZE_BOTH as QUANTIZE_BOTH
from longlive_core.nvfp4.quantize_backends import largest_magnitude
from longlive_core.nvfp4.tensor import NVFP4Tensor, check_amax, padded_size
from longlive_core.tensor_checks import dense, place, present

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

Given = Tensor | float | None
"""An amax as callers give it: a tensor of any type, a number, or None for the tensor's own."""

_DEFAULT = QuantizeConfig()


def tensor_amax(x: Float[Tensor, "..."], groups: int | None = None) -> Float32[Tensor, "*groups"]:
    """The largest magnitude of ``x``, or of each of ``groups`` equal parts along its rows.

    NaN and infinity give NaN: a tensor that holds one decodes to NaN as a whole. Of no values the
    largest is 0. Raises ``ValueError`` for other types, and for groups that are not equal.
    """
    check_floats(x, fewest=0)
    if groups is not None:
        why = "it is how many parts have a magnitude each. Leave it out for one of all."
        groups = whole("tensor_amax's groups", groups, why=why)
    if groups is not None and (groups < 1 or math.prod(x.shape[:-1]) % groups):
        raise ValueError(
            f"tensor_amax(groups={groups}): {math.prod(x.shape[:-1])} rows make no {groups} equal "
            f"groups. Choose a number that divides the rows."
        )
    x = x.detach()
    if x.numel() == 0:
        shape = () if groups is None else (groups,)
        return torch.zeros(shape, dtype=torch.float32, device=x.device)
    parts = x.flatten() if groups is None else x.reshape(groups, -1)
    return largest_magnitude(parts)


def quantize(
    x: Float[Tensor, "..."],
    config: QuantizeConfig = _DEFAULT,
    *,
    amax: Given = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> NVFP4Tensor:
    """Quantize to NVFP4; leading dimensions of ``x`` are rows of one matrix.

    ``amax`` is the magnitude that the scales are made for, if it is known or shared; a vector gives
    equal groups of rows, of whole blocks, one each. It is used in float32. ``generator`` seeds
    stochastic rounding (torch's global one unless given). Ragged sizes are padded with zeros to
    whole blocks; no rows give no codes. NaN and infinity propagate: see ``reference.py``.
    ``backend`` is a name of the table ``QUANTIZE`` or "auto"; a named one that cannot run raises
    ``BackendUnavailable``. Gives no gradient: see ``fake_quantize``.
    """
    _check_call(x, config, backend)
    amax = _amax(x, amax)
    seed = draw_seed(x.device, generator) if config.rounding == "stochastic" else None
    check_amax(amax, math.prod(x.shape[:-1]), config)
    matrix = as_matrix(x.detach(), config)
    codes, scales = torch.ops.longlive.nvfp4_quantize(
        matrix, amax, seed, config_text(config), backend
    )
    return NVFP4Tensor(
        codes=codes, block_scales=scales, amax=amax, config=config, shape=tuple(x.shape)
    )


def quantize_both(
    x: Float[Tensor, "..."],
    config: QuantizeConfig = _DEFAULT,
    *,
    rotate: bool = False,
    amax: Given = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> tuple[NVFP4Tensor, NVFP4Tensor]:
    """A matrix and its transpose, both quantized from ``x`` itself, in one pass where possible.

    What training needs: one product runs along the columns, the other along the rows, and
    quantizing twice would round twice. ``rotate`` applies the Hadamard transform to the transpose.
    Equal to ``quantize(x)`` and ``quantize(rotate(x.t()))``, seeds drawn in this order; float16 is
    rotated as float32, because its range is too small for the sums. Blocks are (1, 16); with
    (16, 16) use ``NVFP4Tensor.transpose``.
    """
    _check_call(x, config, backend)
    if x.ndim != 2:
        raise ValueError(
            f"quantize_both takes a matrix, which has one transpose, got shape {tuple(x.shape)}. "
            f"Flatten the leading dimensions."
        )
    if config.block != (1, BLOCK):
        raise ValueError(
            f"quantize_both takes blocks of (1, {BLOCK}), got {config.block}: with square blocks "
            f"the transpose holds the same values. Use quantize(x).transpose()."
        )
    x = x.detach()
    amax = _amax(x, amax)
    if amax.numel() != 1:
        raise ValueError(
            f"quantize_both got amax of shape {tuple(amax.shape)}: groups of rows are no groups of "
            f"the transpose. Give one amax."
        )
    seeds = None
    if config.rounding == "stochastic":
        seeds = torch.stack([draw_seed(x.device, generator) for _ in range(2)])
    rows, cols = x.shape
    matrix = _padded(x, rows + -rows % BLOCK, cols + -cols % BLOCK)
    codes, scales, codes_t, scales_t, amax_t = torch.ops.longlive.nvfp4_quantize_both(
        matrix, amax, seeds, config_text(config), rotate, backend
    )
    rowwise = NVFP4Tensor(
        codes=codes[:rows], block_scales=scales[:rows], amax=amax, config=config, shape=(rows, cols)
    )
    columnwise = NVFP4Tensor(
        codes=codes_t[:cols],
        block_scales=scales_t[:cols],
        amax=amax_t,
        config=config,
        shape=(cols, rows),
    )
    return rowwise, columnwise


def dequantize(
    q: NVFP4Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    out: Float[Tensor, "..."] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "..."]:
    """The values that ``q`` stands for; see ``NVFP4Tensor.dequantize``."""
    why = "it holds codes and scales. Pass what quantize gave."
    instance("what nvfp4.dequantize reads", q, NVFP4Tensor, why=why)
    return q.dequantize(dtype, out=out, backend=backend)


def fake_quantize(
    x: Float[Tensor, "..."],
    config: QuantizeConfig = _DEFAULT,
    *,
    amax: Given = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Float[Tensor, "..."]:
    """``x`` rounded to what NVFP4 can hold, in the type of ``x``; its gradient passes unchanged.

    The straight-through estimator, for quantization-aware training and for accuracy studies.
    """
    _check_call(x, config, backend)
    amax = _amax(x, amax)
    seed = draw_seed(x.device, generator) if config.rounding == "stochastic" else None
    check_amax(amax, math.prod(x.shape[:-1]), config)
    matrix = as_matrix(x, config)
    values = torch.ops.longlive.nvfp4_fake_quantize(
        matrix, amax, seed, config_text(config), backend
    )
    return values[: math.prod(x.shape[:-1]), : x.shape[-1]].reshape(x.shape)


def quantize_weight(
    weight: Float[Tensor, "out in"],
    config: QuantizeConfig,
    *,
    rows: int = 64,
    device: torch.device | str | None = None,
) -> NVFP4Tensor:
    """``quantize``, some rows at a time: the same bits, and no wide copies of a large matrix.

    ``device`` is where the packed weight will be. On the way there the weight is never whole beside
    its codes: what it takes is its own size, and then that of the codes.
    """
    check_floats(weight)
    check_format("quantize_weight's config", config)
    rows = whole("quantize_weight's rows", rows, at_least=1, why="so many are packed at a time.")
    device = None if device is None else place("quantize_weight's device", device)
    pieces = deque(
        piece if device is None else piece.to(device) for piece in weight.split(16 * rows)
    )
    amax = torch.stack([tensor_amax(piece) for piece in pieces]).amax()
    parts: list[NVFP4Tensor] = []
    while pieces:
        parts += (quantize(part, config, amax=amax) for part in pieces.popleft().split(rows))
    return NVFP4Tensor(
        codes=torch.cat([part.codes for part in parts]),
        block_scales=torch.cat([part.block_scales.view(torch.uint8) for part in parts]).view(
            torch.float8_e4m3fn
        ),
        amax=amax,
        config=config,
        shape=tuple(weight.shape),
    )


def check_floats(x: Tensor, *, fewest: int = 1) -> None:
    """Raise ``ValueError`` unless ``x`` is a float tensor that float32 holds exactly.

    And unless it has at least ``fewest`` dimensions: blocks lie along the last one.
    """
    dense("what nvfp4 quantizes", x, why="make one with torch.tensor.")
    if x.dtype not in FLOATS:
        raise ValueError(
            f"nvfp4 quantizes float32, bfloat16 or float16, got {x.dtype}: its arithmetic is "
            f"float32. Convert the tensor first."
        )
    if x.ndim < fewest:
        raise ValueError(
            "nvfp4 quantizes along the last dimension, and a single number, of shape (), has "
            "none. Give it one: x.reshape(1)."
        )


def _check_call(x: Tensor, config: QuantizeConfig, backend: str) -> None:
    check_floats(x)
    check_format("config", config)
    text("backend", backend, why="it names what rounds. Use 'auto' for the fastest.")


def _amax(x: Tensor, given: Given) -> Float32[Tensor, "*groups"]:
    """What the scales are made for, float32, where ``x`` is."""
    if given is None:
        return tensor_amax(x)
    if not isinstance(given, Tensor):
        why = "it is the largest magnitude to be expected. Leave it out to take the tensor's own."
        number = real("amax", given, at_least=0, at_most=torch.finfo(torch.float32).max, why=why)
        if number == 0 and not torch.compiler.is_compiling() and bool(x.any()):
            raise ValueError(
                "amax is 0, and the tensor has numbers other than 0: all of them would become 0. "
                "Leave it out to take the tensor's own."
            )
        return torch.full((), number, dtype=torch.float32, device=x.device)
    if given.dtype == torch.bool or given.is_complex():
        raise ValueError(f"amax is a tensor of numbers, got {given.dtype}: give magnitudes.")
    if given.is_meta and not x.is_meta:
        present("amax", given, why="it is the largest magnitude to be expected.")
    return given.detach().to(device=x.device, dtype=torch.float32)


def draw_seed(device: torch.device, generator: torch.Generator | None) -> Int64[Tensor, ""]:
    """The seed of one stochastic rounding, drawn on the generator's device."""
    where = device if generator is None else generator.device
    return torch.randint(2**63 - 1, (), generator=generator, device=where).to(device)


def as_matrix(
    x: Float[Tensor, "*batch cols"], config: QuantizeConfig
) -> Float[Tensor, "rows padded"]:
    """Leading dimensions as rows, contiguous, padded with zeros to whole blocks."""
    matrix = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _padded(matrix, *padded_size(tuple(x.shape), config))


def _padded(matrix: Tensor, rows: int, cols: int) -> Tensor:
    """Zeros below and to the right; no copy of a matrix that needs none."""
    missing = rows - matrix.shape[0], cols - matrix.shape[1]
    return F.pad(matrix, (0, missing[1], 0, missing[0])) if any(missing) else matrix.contiguous()
