"""How rows are spread over programs and threads."""

import triton  # noqa: TID253 - its home

from longlive_core.fused.choice import WIDEST

VALUES_PER_PROGRAM = 4096
VALUES_PER_WARP = 512
THREADS = 32
"""Of a warp."""
VALUES_PER_THREAD = 64
"""At most: more do not fit into a thread's registers beside a row's statistics."""


def tile(dim: int, *, encodes: bool = False, most: int = VALUES_PER_THREAD) -> tuple[int, int, int]:
    """The numbers of a row with padding, rows of a program, and its warps.

    A thread takes as many numbers at once as it writes or reads in 16 bytes: eight bfloat16s, or 16
    codes of a kernel that ``encodes``. Warps are so few that what all take at once divides a wide
    row, where a thread then has ``most`` numbers or fewer. Then no thread computes with padding: it
    is left out by the compiler, which sees that a thread's last numbers are all beyond the row.
    """
    width = triton.next_power_of_2(dim)
    if width > WIDEST:
        raise ValueError(
            f"a fused kernel holds rows of at most {WIDEST} numbers, got {dim}: statistics are of "
            f"whole rows. Name the backend 'torch'."
        )
    rows = max(1, VALUES_PER_PROGRAM // width)
    warps = min(16, max(1, rows * width // VALUES_PER_WARP))
    dividing = (dim & -dim) // (THREADS * (16 if encodes else 8))
    if rows == 1 and dim < width and THREADS * dividing * most >= width:
        warps = min(warps, dividing)
    return width, rows, warps
