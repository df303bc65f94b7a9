"""Training data: drawn frames for the VAE, encoded clips for the transformer.

Both live on the training device and hand out batches that depend on a generator alone.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longlive_recipes.moving_shapes import Clip, World, clip, draw


@dataclass(frozen=True, eq=False)
class FramePool:
    """Drawn clips, kept as bytes.

    Attributes:
        frames: uint8 [clips, 3, frames, height, width].
        coverage: uint8 [clips, 1, frames, height, width], 255 inside the objects.
    """

    frames: Tensor
    coverage: Tensor

    @classmethod
    def draw(
        cls, world: World, clips: int, seed: int, device: torch.device, blocks: int = 2
    ) -> "FramePool":
        """Draw clips 0 .. ``clips`` - 1 of ``seed`` with ``blocks`` blocks each."""
        pictures, coverages = [], []
        for first in range(0, clips, 64):
            some = range(first, min(clips, first + 64))
            drawn = [clip(seed, index, world=world, blocks=blocks) for index in some]
            video, coverage = draw(drawn, device=device, objects=True)
            pictures.append(to_bytes(video))
            coverages.append((coverage * 255).round().to(torch.uint8))
        return cls(torch.cat(pictures), torch.cat(coverages))

    def windows(self, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` random windows of ``length`` frames, some mirrored.

        Returns:
            video float [count, 3, length, height, width] in [-1, 1], and coverage in [0, 1].
        """
        clips, _, frames = self.frames.shape[:3]
        which = torch.randint(clips, (count,), generator=generator)
        first = torch.randint(frames - length + 1, (count,), generator=generator)
        mirrored = torch.rand(2, generator=generator) < 0.5
        device = self.frames.device
        index = (first[:, None] + torch.arange(length)).to(device)
        which = which[:, None].to(device)
        flips = [axis for axis, flip in zip((-1, -2), mirrored.tolist(), strict=True) if flip]

        def cut(pool: Tensor) -> Tensor:
            return pool.transpose(1, 2)[which, index].transpose(1, 2).flip(flips)

        return from_bytes(cut(self.frames)), cut(self.coverage).float() / 255

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All clips in order, whole, ``size`` at a time."""
        for pictures, coverage in zip(
            self.frames.split(size), self.coverage.split(size), strict=True
        ):
            yield from_bytes(pictures), coverage.float() / 255


@dataclass(frozen=True, eq=False)
class LatentClips:
    """Encoded clips, and what each of their blocks was captioned.

    Attributes:
        latents: bfloat16 [clips, channels, frames, height, width], normalised.
        captions: of each clip, one caption a block, without the scene-cut prefix.
        cuts: bool [clips, blocks], True where a block begins with a cut.
    """

    latents: Tensor
    captions: tuple[tuple[str, ...], ...]
    cuts: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def save(self, folder: Path) -> None:
        """Write a latent cache, to be read back by :meth:`load`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"latents": self.latents.cpu(), "cuts": self.cuts.cpu()}
        save_file(tensors, folder / "latents.safetensors")
        (folder / "captions.json").write_text(json.dumps(self.captions))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "LatentClips":
        tensors = load_file(folder / "latents.safetensors")
        captions = json.loads((folder / "captions.json").read_text())
        whole = tuple(tuple(blocks) for blocks in captions)
        return cls(tensors["latents"].to(device), whole, tensors["cuts"])


@torch.no_grad()
def encode_clips(
    encode: Callable[[Tensor], Tensor],
    clips: list[Clip],
    *,
    device: torch.device,
    batch: int = 16,
) -> LatentClips:
    """Draw and encode clips of equal length with ``encode`` (video -> normalised latents)."""
    parts = [
        encode(draw(clips[first : first + batch], device=device)).to(torch.bfloat16).contiguous()
        for first in range(0, len(clips), batch)
    ]
    captions = tuple(tuple(made.captions) for made in clips)
    return LatentClips(torch.cat(parts), captions, torch.tensor([made.cuts for made in clips]))


def to_bytes(video: Tensor) -> Tensor:
    """[-1, 1] to 0 .. 255."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(pictures: Tensor) -> Tensor:
    """0 .. 255 to float32 [-1, 1]."""
    return pictures.float() / 127.5 - 1
