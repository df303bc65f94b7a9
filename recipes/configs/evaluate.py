"""What an evaluation generates and judges, and the presets of it; no torch."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is generated and judged; a suite with 0 prompts is left out."""

    model: str = "pocket"
    device: str = "auto"
    weights: str = "auto"
    kv_cache: str = "auto"
    steps: int | None = None
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
        if min(counts) < 0 or not any(counts):
            raise ValueError(
                f"an evaluation needs prompts, got seen={self.seen}, heldout={self.heldout}, "
                f"storyboards={self.storyboards}, long={self.long}, steered={self.steered}: a "
                f"suite of 0 is left out. Give one of them a positive number."
            )
        for name in ("batch", "workers", "seconds", "tail_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.tail_seconds > self.long_seconds:
            raise ValueError(
                f"tail_seconds={self.tail_seconds} is more than long_seconds={self.long_seconds}: "
                f"the tail is the end of a long video. Make it shorter."
            )


def pocket() -> Evaluate:
    """The table of the pocket model's card."""
    return Evaluate()


def pocket_quick() -> Evaluate:
    """A look at a model in a minute or two on a CPU."""
    return replace(pocket(), seen=12, heldout=4, storyboards=2, long=0, batch=6)


PRESETS = {"pocket": pocket, "pocket_quick": pocket_quick}
