"""How often and on what a student is judged while it is distilled. Needs no torch."""

from dataclasses import dataclass

from longlive_recipes.configs.checked import real_field, whole_field

MOST_VIDEOS = 100_000
LONGEST = 600.0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the judge sees of a student at every validation.

    Attributes:
        videos: how many, half of pairs seen in training and half of held-out ones; 0 judges
            nothing, and the last model is kept instead of the best.
        seconds: how long each is.
        batch: how many are generated at once.
        threads: how many are judged at once.
        seed: of prompts and videos; the teacher's videos have other seeds.
    """

    videos: int = 100
    seconds: float = 4.0
    batch: int = 50
    threads: int = 8
    seed: int = 7

    def __post_init__(self) -> None:
        why = "half of them show seen pairs and half held-out ones. Use 100, say, or 0 for none."
        whole_field(self, "videos", at_least=0, at_most=MOST_VIDEOS, why=why)
        if self.videos == 1:
            raise ValueError(f"Judged.videos is 0 or at least 2, got 1: {why}")
        why = "a motion is told from a second or more of it. Use 4, say."
        real_field(self, "seconds", at_least=1, at_most=LONGEST, why=why)
        for name in ("batch", "threads"):
            why = "so many videos are made or judged at once. Use 1 or more."
            whole_field(self, name, at_least=1, at_most=MOST_VIDEOS, why=why)
        why = "it draws the prompts and the videos. Use 7, say."
        whole_field(self, "seed", at_least=0, at_most=1 << 31, why=why)
