"""The config of `longlive plan`: a model, a device and wishes. Needs no torch."""

import math
from dataclasses import dataclass

from longlive_core.checks import real, whole
from longlive_models.choices import KV_CACHES, MOST_GUIDANCE, MOST_STEPS, WEIGHTS, check_choice
from longlive_recipes.planning.hardware import named, with_memory


@dataclass(frozen=True, kw_only=True)
class PlanWishes:
    """What is to be made, of what, and on what.

    Attributes:
        model: a shipped model, a folder, or LongLive-2.0-5B, whose files need not be there.
        gpu: the name of a device; None for this machine's.
        memory: its memory in place of its own, such as "24GB".
        seconds: the length of the video.
        size: width and height of a frame, as "1280x704"; None for the model's own.
        weights, kv_cache: precisions; "auto" as the model would run there.
        steps: denoising steps of a block; None for the model's own.
        guidance: None for the model's own.
        ranks: GPUs that make the video together.
        decode_apart: whether one more GPU decodes.

    Raises ValueError for a value that cannot be.
    """

    model: str = "LongLive-2.0-5B"
    gpu: str | None = None
    memory: str | None = None
    seconds: float = 60.0
    size: str | None = None
    weights: str = "auto"
    kv_cache: str = "auto"
    steps: int | None = None
    guidance: float | None = None
    ranks: int = 1
    decode_apart: bool = False

    def __post_init__(self) -> None:
        known = named("cpu" if self.gpu is None else self.gpu)
        with_memory(known, self.memory)
        check_choice("weights", self.weights, WEIGHTS)
        check_choice("kv_cache", self.kv_cache, KV_CACHES)
        if self.seconds != math.inf:
            real("seconds", self.seconds, above=0, why="a video has at least one frame. Use 60.")
        if self.steps is not None:
            why = "each is a noise level. Use, say, 4."
            whole("steps", self.steps, at_least=1, at_most=MOST_STEPS, why=why)
        if self.guidance is not None:
            why = "1 is the model as trained. Use, say, 3."
            real("guidance", self.guidance, at_least=0, at_most=MOST_GUIDANCE, why=why)
        whole("ranks", self.ranks, at_least=1, at_most=1024, why="GPUs are counted. Use 1.")
        self.image()

    def image(self) -> tuple[int, int] | None:
        """Height and width of a frame; None for the model's own. Raises ValueError for neither."""
        if self.size is None:
            return None
        width, _, height = self.size.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise ValueError(
                f"size={self.size!r} is no size of a frame: write its width and height in pixels, "
                f"such as 1280x704."
            )
        return int(height), int(width)
