"""The config of an evaluation and its presets. Needs no torch."""

from dataclasses import dataclass, replace

from longlive_core.checks import real, whole
from longlive_models.block_steps import check_block_steps
from longlive_models.choices import check_guidance, check_sampler
from longlive_models.runtime_options import RuntimeOptions

LONGEST = 3600.0
MOST_AT_ONCE = 10_000
MOST_PROMPTS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Evaluate(RuntimeOptions):
    """The config of an evaluation. A suite with 0 prompts is left out."""

    model: str = "pocket"
    sampler: str | None = None
    steps: int | tuple[int, ...] | None = None
    guidance: float | None = None
    seconds: float = 4.0
    seen: int = 200
    heldout: int = 100
    storyboards: int = 20
    long: int = 20
    steered: int = 0  # 50 for the table of steering
    long_seconds: float = 60.0
    tail_seconds: float = 10.0  # of a long video, this much of its end is judged
    paraphrases: bool = True  # every other caption is one
    batch: int = 50
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.seen, self.heldout, self.storyboards, self.long, self.steered)
        why = "a suite has so many prompts, and one of 0 is left out."
        for count in counts:
            whole("a number of prompts", count, at_most=MOST_PROMPTS, why=why)
        if min(counts) < 0 or not any(counts):
            raise ValueError(
                f"an evaluation needs prompts, got seen={self.seen}, heldout={self.heldout}, "
                f"storyboards={self.storyboards}, long={self.long}, steered={self.steered}: a "
                f"suite of 0 is left out. Give one of them a positive number."
            )
        self._check_numbers()
        if self.tail_seconds > self.long_seconds:
            raise ValueError(
                f"tail_seconds={self.tail_seconds} is more than long_seconds={self.long_seconds}: "
                f"the tail is the end of a long video. Make it shorter."
            )

    def _check_numbers(self) -> None:
        for name in ("batch", "workers"):
            why = "so many videos are made or judged at once. Use 1 or more."
            whole(name, getattr(self, name), at_least=1, at_most=MOST_AT_ONCE, why=why)
        for name in ("seconds", "tail_seconds", "long_seconds"):
            why = "videos are judged whole, an hour at most. Use 4, say."
            real(name, getattr(self, name), above=0, at_most=LONGEST, why=why)
        if self.sampler is not None:
            check_sampler(self.sampler)
        if self.steps is not None:
            object.__setattr__(self, "steps", check_block_steps("steps", self.steps))
        if self.guidance is not None:
            check_guidance(self.guidance)
        why = "it draws the prompts. Use 0, say."
        whole("seed", self.seed, at_least=0, why=why)
        super().__post_init__()


def pocket() -> Evaluate:
    """The table of the pocket model's card."""
    return Evaluate()


def pocket_quick() -> Evaluate:
    """A look at a model: 18 short videos, some minutes on a CPU."""
    return replace(pocket(), seen=12, heldout=4, storyboards=2, long=0, batch=6)


PRESETS = {"pocket": pocket, "pocket_quick": pocket_quick}
