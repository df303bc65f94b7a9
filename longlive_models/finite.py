"""Checks for NaN, infinities and overflows in the latents and frames of a video.

A NaN in one weight does not stop a network: norms turn it into zeros or spread it, and frames of
NaN become a black video. So each block carries ``Checks`` of its latents and of its frames. They
are computed on the device, without a synchronization. Code that copies the frames to the CPU
copies the checks as well and then calls ``require``, which raises ``NonFiniteVideo``.
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
    """The error for a block whose latents or frames are NaN, infinite or far too large.

    Attributes:
        block: the block of the video, counted from 0.
        step: the denoising step, counted from 1; None if it did not happen while denoising.
    """

    def __init__(self, message: str, *, block: int, step: int | None = None) -> None:
        super().__init__(message)
        self.block = block
        self.step = step


@dataclass(frozen=True, slots=True)
class Check:
    """A description of one check: which tensor was checked, when it was made, and the bound.

    Attributes:
        what: the name of the tensor in the error's sentence, in the plural, as "its latents".
        step: the denoising step that made the tensor, counted from 1; None if none did.
        largest: the largest magnitude that passes.
    """

    what: str
    step: int | None = None
    largest: float = LARGEST_VALUE


@dataclass(frozen=True, slots=True, eq=False)
class Checks:
    """The checks of a block in order, and their results (``passed``, bool [checks])."""

    of: tuple[Check, ...]
    passed: Bool[Tensor, " of"]

    @classmethod
    def join(cls, answers: Mapping[Check, Bool[Tensor, ""]]) -> "Checks":
        """Make ``Checks`` of descriptions and their results, one bool tensor each."""
        return cls(tuple(answers), torch.stack(list(answers.values())))

    @classmethod
    def none(cls) -> "Checks":
        """``Checks`` without any check, which always pass."""
        return cls((), torch.empty(0, dtype=torch.bool, device="cpu"))

    def to_host(self) -> "Checks":
        """Start copying the results to the CPU; wait for the CUDA stream before reading them."""
        return Checks(self.of, start_host_copy(self.passed))

    def require(self, block: int, parts: Mapping[str, nn.Module]) -> None:
        """Raise an error for the first check that failed.

        Args:
            block: the block's number, for the message.
            parts: modules by name, whose weights are searched for the cause.

        Raises:
            NonFiniteVideo: it names the block, the step, and a weight that is NaN or too large, if
                there is one.
        """
        for check, passed in zip(self.of, self.passed.tolist(), strict=True):
            if not passed:
                blame = next(iter(_unsound_weights(parts)), None)
                raise NonFiniteVideo(_message(check, block, blame), block=block, step=check.step)


def sound(x: Shaped[Tensor, "..."], largest: float = LARGEST_VALUE) -> Bool[Tensor, ""]:
    """Whether all values are at most of magnitude ``largest``: a bool on the tensor's device."""
    low, high = torch.aminmax(x.detach())
    return (low >= -largest) & (high <= largest)  # NaN is neither


def sound_weights(module: nn.Module) -> Bool[Tensor, ""]:
    """Whether all weights of a module are finite and can be squared: a bool on their device.

    Those that wait in host memory beside others on a device visit it one by one.

    Codes of eight and four bits are left out, since every code is a finite number; their scales are
    checked.
    """
    found = [x for _, x in _weights(module)]
    device = next((x.device for x in found if x.device.type != "cpu"), torch.device("cpu"))
    answers = [sound(x.to(device, non_blocking=True), LARGEST_WEIGHT) for x in found]
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
