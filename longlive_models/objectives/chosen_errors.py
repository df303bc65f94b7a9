"""Errors of a batch's blocks, chosen from a bank and put together in one go.

On a GPU they come through page-locked memory in the bank's own type, in one copy that nobody waits
for, and are scaled there: the numbers are those of adding one after another on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_models.objectives.error_bank import Chosen

Grid = Sequence[Sequence[Chosen | None]]
"""What was chosen for each block of each clip; None where nothing is added."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenErrors:
    """The errors that are added to a batch; None where a part of it gets none.

    Attributes:
        start, noise, context: to what is noised, to what it is noised with, to the past.
        clean: this step was chosen to have none.
    """

    start: Grid | None = None
    noise: Grid | None = None
    context: Grid | None = None
    clean: bool = False


def put_together(grid: Grid, device: torch.device) -> Float[Tensor, "B C F Y X"] | None:
    """The errors of a batch as latents, float32, zeros where none was chosen; None if none was."""
    blocks = len(grid[0]) if grid else 0
    found = [(at, one) for at, one in enumerate(chain.from_iterable(grid)) if one is not None]
    if not found:
        return None
    pinned = device.type == "cuda"
    kept = [one.error for _, one in found]
    shape, dtype = kept[0].shape, kept[0].dtype
    staged = torch.empty((len(kept), *shape), dtype=dtype, device="cpu", pin_memory=pinned)
    torch.stack(kept, out=staged)
    scales = torch.tensor([one.scale for _, one in found], dtype=torch.float32, device="cpu")
    places = torch.tensor([at for at, _ in found], dtype=torch.int64, device="cpu")
    if pinned:
        scales, places = scales.pin_memory(), places.pin_memory()
    errors = staged.to(device, non_blocking=True).to(torch.float32)
    errors = errors * scales.to(device, non_blocking=True)[:, None, None, None, None]
    size = (len(grid) * blocks, *shape)
    placed = torch.zeros(size, dtype=torch.float32, device=device)
    placed.index_add_(0, places.to(device, non_blocking=True), errors)
    return placed.unflatten(0, (len(grid), blocks)).movedim(1, 2).flatten(2, 3)
