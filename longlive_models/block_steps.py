"""How many denoising steps each block of a video has: one number, or a list by block.

``(4, 2, 2)`` gives block 0 four steps and block 1 two; the last number holds for all later blocks.
The first block has no past to follow, so it may need more steps than the others. Needs no torch.
"""

from typing import Any

from longlive_core.checks import shown, whole
from longlive_models.choices import MOST_STEPS

BlockSteps = int | tuple[int, ...]
"""A number of steps for every block, or numbers by block."""

_WHY = (
    f"each denoising step needs a noise level of its own, and models know {MOST_STEPS}. "
    f"Use, say, 4, or (4, 2) for four in the first block and two in all others."
)


def check_block_steps(name: str, steps: Any) -> BlockSteps:
    """Return ``steps`` as ints of Python, if they are valid numbers of denoising steps.

    Args:
        name: the name that messages give them.
        steps: a whole number from 1 to 1000, or a list or tuple of one or more of them. A list of
            one number is returned as that number.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(steps, list | tuple):
        return _whole(name, steps)
    if not steps:
        raise ValueError(f"{name} by block are one number or more, got {shown(steps)}: {_WHY}")
    numbers = tuple(_whole(f"{name} of block {block}", one) for block, one in enumerate(steps))
    return numbers if len(numbers) > 1 else numbers[0]


def steps_of_block(steps: BlockSteps, block: int) -> int:
    """The number of denoising steps of block ``block``, which is counted from 0."""
    return steps if isinstance(steps, int) else steps[min(block, len(steps) - 1)]


def _whole(name: str, steps: Any) -> int:
    return whole(name, steps, at_least=1, at_most=MOST_STEPS, why=_WHY)
