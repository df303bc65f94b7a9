"""How rows are spread over programs and threads."""

import triton  # noqa: TID253 - its home

from longlive_core.fused.choice import WIDEST

VALUES_PER_PROGRAM = 4096
VALUES_PER_WARP = 512


def tile(dim: int) -> tuple[int, int, int]:
    """The numbers of a row with padding, rows of a program, and its warps."""
    width = triton.next_power_of_2(dim)
    if width > WIDEST:
        raise ValueError(
            f"a fused kernel holds rows of at most {WIDEST} numbers, got {dim}: statistics are of "
            f"whole rows. Name the backend 'torch'."
        )
    rows = max(1, VALUES_PER_PROGRAM // width)
    return width, rows, min(16, max(1, rows * width // VALUES_PER_WARP))
