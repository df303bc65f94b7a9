"""A block of latents that was generated, and all that a generator keeps between two blocks."""

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
    """One generated block.

    Attributes:
        index: which block of the video it is.
        latents: float32 [batch, channels, frames, height, width], normalized.
        prompt: what it was asked to show; of a batch, what its first video was.
        checks: whether its numbers are numbers: read them, before its frames are shown, with
            ``checks.require(index, parts)``, which waits for the device.
    """

    index: int
    latents: Latents
    prompt: BlockPrompt
    checks: Checks


@dataclass(frozen=True, slots=True, eq=False)
class KeptBlock:
    """What it takes to encode a page again: its block's latents and the offset it was made at."""

    latents: Latents
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratorState:
    """All that a generator remembers between two blocks, on the CPU.

    Attributes:
        cache: the pages.
        kept: by page, what encodes the pages that are held again.
        image: the first frame, until the block that shows it is made.
    """

    cache: CacheSnapshot
    kept: dict[int, KeptBlock]
    image: Image | None
