"""Numbers that are none, found on their device and told where its results are waited for anyway.

A NaN or an overflow in one weight does not stop a network: norms turn it into zeros or spread it,
and the bytes of frames that hold none are a black video. So each block carries ``Checks`` of
its latents and of its frames. They are computed beside them and cost no synchronization; whoever
brings the frames to the CPU brings them along and calls ``require``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from longlive_core.async_decode import start_host_copy

LARGEST_VALUE = 2.0**20
"""The largest magnitude of a latent, a velocity or a pixel: all are of the order of 1."""

LARGEST_WEIGHT = 2.0**63
"""The largest magnitude of a weight: the square of a larger one is infinite in float32, and a norm
that squares it answers zero."""


class NonFiniteVideo(ValueError):
    """A block's numbers are NaN, infinite, or too large for what they stand for.

    Attributes:
        block: which block of the video.
        step: the denoising step, counted from 1; None if it was not while denoising.
    """

    def __init__(self, message: str, *, block: int, step: int | None = None) -> None:
        super().__init__(message)
        self.block = block
        self.step = step


@dataclass(frozen=True, slots=True)
class Check:
    """Of what it is asked whether it holds numbers, when it was made, and the bound it was held to.

    Attributes:
        what: in the plural, as the error's sentence has it.
        step: the denoising step that made it, counted from 1; None for what none made.
        largest: the largest magnitude that counts as a number.
    """

    what: str
    step: int | None = None
    largest: float = LARGEST_VALUE


@dataclass(frozen=True, slots=True, eq=False)
class Checks:
    """What was checked of a block, in the order in which it was made; ``passed`` on any device."""

    of: tuple[Check, ...]
    passed: Bool[Tensor, " of"]

    @classmethod
    def join(cls, answers: Mapping[Check, Bool[Tensor, ""]]) -> "Checks":
        """The checks whose answers these are."""
        return cls(tuple(answers), torch.stack(list(answers.values())))

    @classmethod
    def none(cls) -> "Checks":
        """Of what needs no check."""
        return cls((), torch.empty(0, dtype=torch.bool, device="cpu"))

    def to_host(self) -> "Checks":
        """Start bringing the answers to the CPU; they may be read once the stream is there."""
        return Checks(self.of, start_host_copy(self.passed))

    def require(self, block: int, parts: Mapping[str, nn.Module]) -> None:
        """Raise for the first check that failed; ``parts`` are the modules that may be to blame.

        Raises:
            NonFiniteVideo: it names the block, the step, and a weight that holds no number.
        """
        for check, passed in zip(self.of, self.passed.tolist(), strict=True):
            if not passed:
                blame = next(iter(_unsound_weights(parts)), None)
                raise NonFiniteVideo(_message(check, block, blame), block=block, step=check.step)


def sound(x: Shaped[Tensor, "..."], largest: float = LARGEST_VALUE) -> Bool[Tensor, ""]:
    """Whether all are numbers of at most this magnitude: an answer on the tensor's device."""
    low, high = torch.aminmax(x.detach())
    return (low >= -largest) & (high <= largest)  # NaN is neither


def sound_weights(module: nn.Module) -> Bool[Tensor, ""]:
    """Whether all weights of a module are numbers that a norm can square, on their device.

    Weights of eight and four bits are left out: their formats hold nothing else, their scales are
    weights here.
    """
    answers = [sound(x, LARGEST_WEIGHT) for _, x in _weights(module)]
    return torch.stack(answers).all()


def _weights(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for named in (module.named_parameters(), module.named_buffers()):
        for name, x in named:
            if x.is_floating_point() and x.dtype.itemsize > 1 and x.numel():
                yield name, x


def _unsound_weights(parts: Mapping[str, nn.Module]) -> Iterable[str]:
    for part, module in parts.items():
        for name, x in _weights(module):
            if not sound(x, LARGEST_WEIGHT):
                low, high = (bound.item() for bound in torch.aminmax(x.detach()))
                yield f"the {part}'s weight {name} holds {low if low < -LARGEST_WEIGHT else high:g}"


def _message(check: Check, block: int, blame: str | None) -> str:
    where = f"block {block}" if check.step is None else f"block {block}, step {check.step}"
    if blame is None:
        why = "no weight is to blame. Lower the guidance, or take a wider precision"
    else:
        why = f"{blame}. Load the model from whole files, or undo what changed its weights"
    return (
        f"{where}: {check.what} are NaN, infinite or above {check.largest:.3g}, so its frames "
        f"would be black or noise; {why}."
    )
