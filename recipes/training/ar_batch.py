"""A batch of AR training: its clips, and all that is drawn for them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from longlive_core.sequence_parallel import BalancedSP
from longlive_recipes.training.parallel import Ranks

T = TypeVar("T")
Latents = Float[Tensor, "clips channels frames rows columns"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """A rank's part of a batch: some of its clips, and of each some frames.

    Attributes:
        some: the clips' numbers in their set.
        ids: what the text encoder is given for each block.
        latents, noise: float32.
        timesteps, positions: of each frame; the timestep of a given first frame is 0.
        context: the clean past that blocks see.
        start: what is noised, where it is not the latents.
        weights: what the loss of each frame is multiplied by, so that the mean over all frames of
            all ranks is the mean over those that count; None where all count.
        free: 0 for a given first frame, else 1; None where none is given.
    """

    some: Int[Tensor, " clips"]
    ids: Int[Tensor, "clips blocks length"]
    latents: Latents
    noise: Latents
    timesteps: Float[Tensor, "clips frames"]
    positions: Float[Tensor, "clips frames"]
    context: Latents
    start: Latents | None = None
    weights: Float[Tensor, "clips frames"] | None = None
    free: Float[Tensor, "clips frames"] | None = None

    def parts(self, count: int) -> list["Batch"]:
        """The batch in ``count`` parts of as many clips each."""
        chunks: list[dict[str, Any]] = [{} for _ in range(count)]
        for one in fields(self):
            value = vars(self)[one.name]
            of_parts = [None] * count if value is None else value.chunk(count)
            for part, some in zip(chunks, of_parts, strict=True):
                part[one.name] = some
        return [Batch(**part) for part in chunks]

    def weighted(self, losses: Float[Tensor, "clips frames"]) -> Float[Tensor, "clips frames"]:
        """Losses of frames, whose mean over all ranks is the mean over what counts."""
        return losses if self.weights is None else losses * self.weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What is drawn for a whole batch, alike on every rank; on the CPU.

    Attributes:
        timesteps: float32, of each block's level.
        given: the clips whose first frame is given; None where no clip's is.
        lengths: blocks of each clip, those that fill it up left out; None where none is filled up.
    """

    timesteps: Float[Tensor, "clips frames"]
    frames_per_block: int
    given: Bool[Tensor, " clips"] | None = None
    lengths: Int[Tensor, " clips"] | None = None

    @property
    def free(self) -> Float[Tensor, "clips frames"] | None:
        """0 for a given first frame, else 1; None where none is given."""
        if self.given is None or not self.given.any():
            return None
        free = torch.ones_like(self.timesteps)
        free[self.given, 0] = 0
        return free

    @property
    def real(self) -> Bool[Tensor, "clips blocks"] | None:
        """Which blocks are a clip's own; None where all are."""
        if self.lengths is None:
            return None
        blocks = self.timesteps.shape[1] // self.frames_per_block
        return torch.arange(blocks, dtype=torch.int64, device="cpu") < self.lengths[:, None]

    @property
    def weights(self) -> Float[Tensor, "clips frames"] | None:
        """See ``Batch.weights``, of all ranks."""
        free, real = self.free, self.real
        if free is None and real is None:
            return None
        counted = torch.ones_like(self.timesteps) if free is None else free
        if real is not None:
            counted = counted * real.repeat_interleave(self.frames_per_block, 1)
        return counted * (counted.numel() / counted.sum())


def draw_given(share: float, count: int, generator: torch.Generator) -> Tensor | None:
    """Which of ``count`` clips have their first frame given, each with this probability.

    None, with nothing drawn, where none ever has.
    """
    if share == 0:
        return None
    return torch.rand(count, generator=generator, dtype=torch.float32, device="cpu") < share


class Own:
    """Takes a rank's part out of what is drawn for all.

    Args:
        ranks: this rank's place.
        sp: the exchange of the clips' sequence.
        device: where it is moved.
    """

    def __init__(self, ranks: Ranks, sp: BalancedSP, device: torch.device) -> None:
        self.ranks, self.sp, self.device = ranks, sp, device

    def frames(self, whole: Tensor, dim: int = 1) -> Tensor:
        """This rank's frames, dimension ``dim``, of its clips, dimension 0."""
        return self.sp.shard(self.ranks.clips(whole), dim).to(self.device)

    def blocks(self, grid: Sequence[Sequence[T]]) -> list[list[T]]:
        """This rank's blocks of its clips, out of something for each block of each clip."""
        clips, blocks = len(grid), len(grid[0])
        numbers = torch.arange(clips * blocks, dtype=torch.int64, device="cpu")
        own = self.sp.shard_blocks(self.ranks.clips(numbers.view(clips, blocks)), 1)
        return [[grid[n // blocks][n % blocks] for n in row] for row in own.tolist()]

    def everyone(self, own: Tensor, dim: int = 2) -> Tensor:
        """The frames of the clips of all ranks, on every rank; without a gradient."""
        return self.ranks.all_clips(self.sp.gather(own, dim))


def over_frames(x: Float[Tensor, "clips frames"]) -> Tensor:
    """A number a frame, to be multiplied with latents."""
    return x[:, None, :, None, None]
