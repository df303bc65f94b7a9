"""Videos to latents, block by block: one block of frames is in memory at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_models.first_frame import image_to_pixels
from longlive_models.vae import StreamState, WanVAE
from longlive_models.video.picture import Pixels
from longlive_models.video.timed import resample, timed_frames
from longlive_recipes.data.cutting import Piece, cut_blocks
from longlive_recipes.data.layouts import Source
from longlive_recipes.data.target import Target
from longlive_recipes.training.export import read_vae


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """A clip's latents, bfloat16 on the CPU, with the caption and the cut of each block."""

    number: int
    latents: Float[Tensor, "channels frames rows columns"]
    captions: tuple[str, ...]
    cuts: tuple[bool, ...]


class ClipEncoder:
    """A VAE on its device, and the sizes that clips get."""

    def __init__(self, target: Target, device: torch.device) -> None:
        self.target, self.device = target, device
        self.vae: WanVAE = read_vae(target.vae).to(device)
        self.vae.channels_last_()

    def clips(
        self, source: Source, known: Callable[[int], bool] = lambda number: False
    ) -> Iterator[EncodedClip]:
        """The clips of a video or a story, encoded one after another; those ``known`` left out.

        Raises:
            ValueError: a video cannot be read to its end.
        """
        target = self.target
        blocks = cut_blocks(frames_of(source, target), target.timing, target.blocks)
        for number, pieces in groupby(blocks, key=lambda piece: piece.clip):
            state: StreamState | None = None
            latents, shots = [], []
            if known(number):
                continue
            for piece in pieces:
                encoded, state = self._encode(piece, state)
                latents.append(encoded)
                shots.append(piece.shot)
            yield EncodedClip(
                number=number,
                latents=torch.cat(latents, 1),
                captions=tuple(source.shots[shot].caption for shot in shots),
                cuts=cuts_of(shots),
            )

    @torch.no_grad()
    def _encode(
        self, piece: Piece[Pixels], state: StreamState | None
    ) -> tuple[Tensor, StreamState]:
        height, width = self.target.height, self.target.width
        video = torch.cat([image_to_pixels(frame, height, width) for frame in piece.frames], 2)
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            latents, state = self.vae.encode_block(video.to(self.device), state)
        return latents[0].to("cpu", torch.bfloat16), state


def cuts_of(shots: list[int]) -> tuple[bool, ...]:
    """Of blocks of these shots, whether each begins with a cut; the first never does."""
    return (False, *(a != b for a, b in zip(shots, shots[1:], strict=False)))


def frames_of(source: Source, target: Target) -> Iterator[tuple[int, Pixels]]:
    """The frames of all shots at the target's rate, each with its shot's number.

    Shots of one file that follow each other are read in one pass.
    """
    first = 0
    for path, same in groupby(source.shots, key=lambda shot: shot.path):
        shots = list(same)
        spans = [(shot.start, shot.end) for shot in shots]
        for number, pixels in resample(timed_frames(path), spans, target.timing.fps):
            yield first + number, pixels
        first += len(shots)
