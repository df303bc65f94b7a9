"""Join the four phases of an upsampling and add its shortcut, in one launch.

``fused_passes.py`` has the meaning. A program makes some pixels of one frame of the result.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_models.vae.layers import unfolding

VALUES_PER_PROGRAM = 4096


@triton.jit(do_not_specialize=["height", "width"])  # one compiled kernel for any size
def _join_phases(
    phases_ptr,
    bias_ptr,
    start_ptr,
    out_ptr,
    height,
    width,
    TIME: tl.constexpr,
    C: tl.constexpr,
    START_C: tl.constexpr,
    REPEAT: tl.constexpr,
    UNFOLD_TIME: tl.constexpr,
    UNFOLD_ROW: tl.constexpr,
    UNFOLD_COLUMN: tl.constexpr,
    POSITIONS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """POSITIONS pixels of one frame of the result: ``2 * height`` rows, ``2 * width`` columns.

    The convolution before it had windows of 2 x 2 around the corners of positions, one more in each
    direction than there are positions. Pixel ``(2 i + r, 2 j + c)`` is phase ``2 r + c`` of window
    ``(i + r, j + c)``. Its shortcut comes from position ``(i, j)`` of ``start``, where
    ``UNFOLD_TIME * UNFOLD_ROW * UNFOLD_COLUMN`` neighboring channels hold the pixels that one
    becomes, and each such group stands for ``REPEAT`` channels of the result.
    """
    KIND: tl.constexpr = out_ptr.dtype.element_ty
    frame = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.arange(0, WIDTH)
    known = channel < C
    mask = (position < 4 * height * width)[:, None] & known[None, :]
    y, x = position // (2 * width), position % (2 * width)
    row, column = y % 2, x % 2
    above, left = y // 2, x // 2

    place = (frame * (height + 1) + above + row) * (width + 1) + left + column
    phase = (2 * row + column) * C
    at = place[:, None] * (4 * C) + phase[:, None] + channel[None, :]
    total = tl.load(phases_ptr + at, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=known, other=0.0).to(tl.float32)
    total = (total + bias[None, :]).to(KIND).to(tl.float32)

    part = (frame % TIME % UNFOLD_TIME) * UNFOLD_ROW + row % UNFOLD_ROW
    part = part * UNFOLD_COLUMN + column % UNFOLD_COLUMN
    source = channel // REPEAT * (UNFOLD_TIME * UNFOLD_ROW * UNFOLD_COLUMN)
    place = (frame // TIME * height + above) * width + left
    at = (place * START_C + part)[:, None] + source[None, :]
    total += tl.load(start_ptr + at, mask=mask, other=0.0).to(tl.float32)
    place = frame * (4 * height * width) + position
    tl.store(out_ptr + place[:, None] * C + channel[None, :], total.to(KIND), mask=mask)


def join_phases(phases: Tensor, bias: Tensor, start: Tensor) -> Tensor:
    """See ``fused_passes.join_phases``."""
    samples, frames, tall, wide, four = phases.shape
    height, width, channels = tall - 1, wide - 1, four // 4
    time = frames // start.shape[1]
    unfold = unfolding(start.shape[4], channels, time)
    out = phases.new_empty(samples, frames, 2 * height, 2 * width, channels)
    covered = triton.next_power_of_2(channels)
    positions = max(1, VALUES_PER_PROGRAM // covered)
    _join_phases[(triton.cdiv(4 * height * width, positions), samples * frames)](
        phases,
        bias,
        start,
        out,
        height,
        width,
        TIME=time,
        C=channels,
        START_C=start.shape[4],
        REPEAT=max(1, channels // start.shape[4]),
        UNFOLD_TIME=unfold[0],
        UNFOLD_ROW=unfold[1],
        UNFOLD_COLUMN=unfold[2],
        POSITIONS=positions,
        WIDTH=covered,
        enable_fp_fusion=False,
    )
    return out
