"""What a generator gives and keeps: a block of latents, and its state between two blocks."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from longlive_core.kv_cache import CacheSnapshot
from longlive_models.finite import Checks
from longlive_models.prompts.storyboard import BlockPrompt

Latents = Float[Tensor, "batch channels frames height width"]
Image = Float[Tensor, "batch channels 1 height width"]


@dataclass(frozen=True, slots=True, eq=False)
class LatentBlock:
    """The latents of one generated block.

    Attributes:
        index: the block's number in the video, from 0.
        latents: float32 [batch, channels, frames, height, width], normalized.
        prompt: its prompt; in a batch, the first video's.
        checks: whether its latents are finite. Call ``checks.require(index, parts)``, which waits
            for the device, before its frames are shown.
    """

    index: int
    latents: Latents
    prompt: BlockPrompt
    checks: Checks


@dataclass(frozen=True, slots=True, eq=False)
class KeptBlock:
    """What is needed to encode a page again: its block's latents and its offset in time."""

    latents: Latents
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratorState:
    """A generator's state between two blocks, on the CPU.

    Attributes:
        cache: the pages.
        kept: for each page in the cache, what is needed to encode it again.
        image: the given first frame, until the block that shows it has been made.
    """

    cache: CacheSnapshot
    kept: dict[int, KeptBlock]
    image: Image | None


def check_latents(what: str, latents: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError for latents of another shape than ``shape``; ``what`` names their source."""
    if tuple(latents.shape) != shape:
        raise ValueError(
            f"the latents of {what} must be {shape} (videos, channels, frames, height, width), got "
            f"{tuple(latents.shape)}: they take the place of what the model would make. Encode "
            f"{what} of the video's size for each video."
        )
