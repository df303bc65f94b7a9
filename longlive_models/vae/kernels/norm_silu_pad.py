"""Sum, norm, SiLU and causal padding in one launch; ``fused_passes.py`` has the meaning.

A program takes some positions of one frame of the padded result: it copies them from the past, or
computes them from the frame that they come from. Those that the next call needs it writes twice.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor
from triton.language.extra import libdevice  # noqa: TID253

VALUES_PER_PROGRAM = 4096


@triton.jit
def _exp(x, COMPILED: tl.constexpr):
    """The exponential that PyTorch takes on a GPU; the interpreter has its own."""
    if COMPILED:
        return libdevice.exp(x)
    return tl.exp(x)


@triton.jit
def _norm_silu(
    x,
    gamma,
    scale,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    LEVELS: tl.constexpr,
    COMPILED: tl.constexpr,
):
    """SiLU of the norm of rows, rounded to KIND where the plain operations store a result.

    Squares of neighbors are added, then neighboring sums, whatever thread holds them.
    """
    total = x * x
    for level in tl.static_range(LEVELS):
        total = tl.sum(tl.reshape(total, (ROWS, 1 << (LEVELS - 1 - level), 2)), axis=2)
    total = tl.reshape(total, (ROWS,))
    length = tl.sqrt_rn(total)
    length = tl.where(length < 1e-12, 1e-12, length)  # NaN stays
    inverse = tl.div_rn(tl.full((ROWS,), 1.0, tl.float32), length) * scale
    inverse = inverse.to(KIND).to(tl.float32)
    y = (x * inverse[:, None]).to(KIND).to(tl.float32)
    y = (y * gamma[None, :]).to(KIND).to(tl.float32)
    return tl.div_rn(y, 1.0 + _exp(-y, COMPILED)).to(KIND)


_SIZES = [
    "past_sample", "past_frame", "past_row", "past_column", "frames", "positions", "width"
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)  # one compiled kernel for frames of any size
def _norm_silu_pad(
    x_ptr,
    bias_ptr,
    shortcut_ptr,
    gamma_ptr,
    past_ptr,
    padded_ptr,
    kept_ptr,
    past_sample,
    past_frame,
    past_row,
    past_column,
    frames,
    positions,
    width,
    scale,
    PAST: tl.constexpr,
    C: tl.constexpr,
    BIAS: tl.constexpr,
    SHORTCUT: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    LEVELS: tl.constexpr,
    COMPILED: tl.constexpr,
):
    """ROWS positions of a frame: of the PAST ones in front, or of the ``frames`` after them.

    Strides of the past count positions.
    """
    KIND: tl.constexpr = padded_ptr.dtype.element_ty
    position = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    channel = tl.arange(0, 1 << LEVELS)
    known = channel < C
    mask = (position < positions)[:, None] & known[None, :]
    sample = tl.program_id(1) // (frames + PAST)
    frame = tl.program_id(1) % (frames + PAST)
    inside = position[:, None] * C + channel[None, :]
    if frame < PAST:
        place = sample.to(tl.int64) * past_sample + frame.to(tl.int64) * past_frame
        place += position // width * past_row + position % width * past_column
        at = place[:, None] * C + channel[None, :]
        y = tl.load(past_ptr + at, mask=mask, other=0.0).to(KIND)
    else:
        at = (sample * frames + frame - PAST).to(tl.int64) * positions * C + inside
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        if BIAS:
            bias = tl.load(bias_ptr + channel, mask=known, other=0.0).to(tl.float32)
            x = (x + bias[None, :]).to(KIND).to(tl.float32)
        if SHORTCUT:
            shortcut = tl.load(shortcut_ptr + at, mask=mask, other=0.0).to(tl.float32)
            added = (x + shortcut).to(KIND)
            tl.store(x_ptr + at, added, mask=mask)
            x = added.to(tl.float32)
        gamma = tl.load(gamma_ptr + channel, mask=known, other=0.0).to(tl.float32)
        y = _norm_silu(x, gamma, scale, KIND, ROWS, LEVELS, COMPILED)
    whole = tl.program_id(1).to(tl.int64) * positions * C
    tl.store(padded_ptr + whole + inside, y, mask=mask)
    if KEEP and frame >= frames:
        last = (sample * PAST + frame - frames).to(tl.int64) * positions * C
        tl.store(kept_ptr + last + inside, y, mask=mask)


def norm_silu_pad(
    x: Tensor,
    gamma: Tensor,
    past: Tensor,
    *,
    bias: Tensor | None,
    shortcut: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See ``fused_passes.norm_silu_pad``; with a shortcut the sum is written over ``x``."""
    samples, frames, height, width, channels = x.shape
    before = past.shape[1]
    strides = past.stride()
    if strides[4] != 1 or any(stride % channels for stride in strides[:4]):
        past = past.contiguous()
        strides = past.stride()
    padded = x.new_empty(samples, before + frames, height, width, channels)
    kept = x.new_empty(past.shape) if keep else None
    levels = max(1, (channels - 1).bit_length())
    rows = max(1, VALUES_PER_PROGRAM >> levels)
    _norm_silu_pad[(triton.cdiv(height * width, rows), samples * (before + frames))](
        x,
        x if bias is None else bias,
        x if shortcut is None else shortcut,
        gamma,
        past,
        padded,
        padded if kept is None else kept,
        *(stride // channels for stride in strides[:4]),
        frames,
        height * width,
        width,
        channels**0.5,
        PAST=before,
        C=channels,
        BIAS=bias is not None,
        SHORTCUT=shortcut is not None,
        KEEP=keep,
        ROWS=rows,
        LEVELS=levels,
        COMPILED=x.is_cuda,
        enable_fp_fusion=False,
    )
    return x, padded, kept
