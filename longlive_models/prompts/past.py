"""The clip that a video goes on from, in blocks. Integers and texts only; needs no torch."""

from dataclasses import dataclass

from longlive_core.checks import shown, whole
from longlive_models.prompts.text import require_prompt


@dataclass(frozen=True, kw_only=True)
class Past:
    """The blocks of a clip that a video goes on from.

    Attributes:
        blocks: how many there are; they are the video's blocks 0, 1, ..., and are not made.
        cut: whether the first block after them begins a new shot. Otherwise the clip and the
            video's first shot are one shot.
        prompt: with a cut, what the clip shows; the first shot's prompt unless given.

    Raises ValueError for no block, and for a prompt without a cut.
    """

    blocks: int
    cut: bool = False
    prompt: str | None = None

    def __post_init__(self) -> None:
        whole("the blocks of a clip", self.blocks, at_least=1, why="a video goes on from them.")
        if self.prompt is not None:
            require_prompt(self.prompt)
            if not self.cut:
                raise ValueError(
                    f"the clip's prompt {shown(self.prompt)} is for a clip that a cut follows: "
                    f"without one, the clip and what comes next are one shot with one prompt. Add "
                    f"the cut, or leave the clip's prompt out."
                )

    def before(
        self, prompts: tuple[str, ...], lengths: tuple[int, ...]
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Prompts and lengths in blocks of a video's shots, with the clip before them."""
        if self.cut:
            return (self.prompt or prompts[0], *prompts), (self.blocks, *lengths)
        return prompts, (self.blocks + lengths[0], *lengths[1:])
