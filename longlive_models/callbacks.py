"""Callbacks of a caller while a video is being made: their types, reports and answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import shown
from longlive_models.video.blocks import VideoBlock


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepReport:
    """What ``on_step`` is told after a denoising step.

    Attributes:
        block: the block of the video, counted from 0.
        blocks: how many blocks the video has; None if it has no end.
        step: the step of the block, counted from 0.
        steps: how many steps this block has; one clean pass follows the last one.
        timestep: the timestep that the model was given, from 0 to 1000.
        sigma: the noise level of ``latents``; 0 after the last step.
        latents: float32 [1, channels, frames, height, width] after the step, normalized, on the
            model's device. The sampler goes on with this very tensor: to keep or to change it,
            take a copy.
        past: how many of the blocks are of a clip that the video goes on from, and not made.
    """

    block: int
    blocks: int | None
    step: int
    steps: int
    timestep: float
    sigma: float
    latents: Float[Tensor, "1 channels frames height width"]
    past: int = 0


OnStep = Callable[[StepReport], object]
"""Called after each denoising step; if it returns False, the block in progress is dropped and the
video ends."""

OnBlock = Callable[[VideoBlock], object]
"""Called with each block before it is handed out; False makes it the last one."""


def asks_to_stop(answer: object, name: str) -> bool:
    """Whether the callback ``name`` answered False, be it a bool of Python, NumPy or torch.

    Raises:
        ValueError: it answered with a mapping. In other libraries such answers replace tensors;
            here they would do nothing.
    """
    if isinstance(answer, Mapping):
        raise ValueError(
            f"{name} answered {shown(answer)}: it is told what was made and cannot replace it. "
            f"Return None to go on, or False to stop."
        )
    return _is_bool(answer) and not answer


def require_callable(name: str, callback: object) -> None:
    """Raise ValueError if ``callback`` is neither None (no callback) nor something to call."""
    if callback is not None and not callable(callback):
        raise ValueError(
            f"{name} is a function of one report, got {shown(callback)}: it is called while the "
            f"video is made. Pass one, or leave it out."
        )


def _is_bool(answer: Any) -> bool:
    kind = str(answer.dtype) if hasattr(answer, "dtype") else type(answer).__name__
    return kind in ("bool", "torch.bool")
