"""Training data: drawn frames for the VAE, encoded clips for the transformer.

Both are held on the training device. Which of them a batch has depends on a torch generator alone.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from longlive_core.attention import TableMask
from longlive_core.kv_cache import WindowPolicy
from longlive_models.checkpoints.disk import save_tensors
from longlive_models.checkpoints.tensor_files import read_safetensors
from longlive_models.objectives import shot_anchors, teacher_forcing_table
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
from longlive_recipes.moving_shapes.clips import Clip, ClipFormat, clip, draw
from longlive_recipes.run_record import differences


@dataclass(frozen=True, eq=False)
class FramePool:
    """Drawn clips that the VAE is trained on, stored as 8-bit pictures.

    Attributes:
        frames: uint8 [clips, 3, frames, height, width].
        coverage: uint8 [clips, 1, frames, height, width], how much of each pixel the object
            covers: 255 inside it, 0 outside.
    """

    frames: Tensor
    coverage: Tensor

    def first(self, count: int) -> "FramePool":
        """A pool of the first ``count`` clips."""
        return FramePool(self.frames[:count], self.coverage[:count])

    @classmethod
    def draw(
        cls, clip_format: ClipFormat, clips: int, seed: int, device: torch.device, blocks: int = 2
    ) -> "FramePool":
        """Draw clips 0 to ``clips`` - 1 of ``seed``, of ``blocks`` blocks each, on ``device``."""
        pictures, coverages = [], []
        for first in range(0, clips, 64):
            some = range(first, min(clips, first + 64))
            drawn = [clip(seed, index, clip_format=clip_format, blocks=blocks) for index in some]
            video, coverage = draw(drawn, device=device, objects=True)
            pictures.append(to_bytes(video))
            coverages.append((coverage * 255).round().to(torch.uint8))
        return cls(torch.cat(pictures), torch.cat(coverages))

    def windows(
        self, count: int, length: int, generator: torch.Generator, crop: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """``count`` random windows of ``length`` consecutive frames.

        The windows of a call are mirrored together: left to right, top to bottom, both or neither.

        Args:
            count: how many windows.
            length: frames in each.
            generator: draws them.
            crop: pixels on a side of a square that is cut out around the object of the window's
                middle frame, with some chance, and inside the picture; None cuts none.

        Returns:
            The video, float32 [count, 3, length, height, width] in [-1, 1], and the coverage,
            float32 [count, 1, length, height, width] in [0, 1].

        Raises:
            ValueError: a ``length`` below 1, or above the number of frames in a clip, or a ``crop``
                larger than the picture.
        """
        clips, _, frames, *sides = self.frames.shape
        if not 1 <= length <= frames:
            raise ValueError(
                f"a window of {length} frames cannot be cut from clips of {frames}: "
                f"use a length of 1 to {frames}."
            )
        if crop is not None and not 1 <= crop <= min(sides):
            raise ValueError(
                f"a square of {crop} pixels cannot be cut from pictures of {sides[0]} x "
                f"{sides[1]}: use a crop of 1 to {min(sides)}."
            )

        def draw(end: int) -> Tensor:
            return torch.randint(end, (count,), generator=generator, device=generator.device)

        which, first = draw(clips), draw(frames - length + 1)
        mirrored = (
            torch.rand(2, generator=generator, dtype=torch.float32, device=generator.device) < 0.5
        )
        device = self.frames.device
        index = (first[:, None] + torch.arange(length, dtype=torch.int64, device="cpu")).to(device)
        which = which[:, None].to(device)
        flips = [axis for axis, flip in zip((-1, -2), mirrored.tolist(), strict=True) if flip]
        places: tuple[Tensor, ...] = ()
        if crop is not None:
            middle = self.coverage[which[:, 0], 0, index[:, length // 2]]
            chance = torch.rand((2, count), generator=generator, dtype=torch.float32, device="cpu")
            places = _square(middle, crop, chance.to(device))

        def cut(pool: Tensor) -> Tensor:
            by_frame = pool.transpose(1, 2)
            if not places:
                return by_frame[which, index].transpose(1, 2).flip(flips)
            rows, columns = (place[:, None, :] for place in places)
            picked = by_frame.permute(0, 1, 3, 4, 2)[
                which[:, :, None, None],
                index[:, :, None, None],
                rows[..., None],
                columns[..., None, :],
            ]
            return picked.permute(0, 4, 1, 2, 3).contiguous().flip(flips)

        return from_bytes(cut(self.frames)), cut(self.coverage).float() / 255

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All clips in order, ``size`` whole ones at a time: video and coverage, as ``windows``."""
        for pictures, coverage in zip(
            self.frames.split(size), self.coverage.split(size), strict=True
        ):
            yield from_bytes(pictures), coverage.float() / 255


def _square(coverage: Tensor, side: int, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, int64 [count, side], of a square near the object of each picture.

    Args:
        coverage: [count, height, width], how much of each pixel the object covers; where it covers
            none, the square lies in the middle.
        side: of the square, in pixels.
        chance: [2, count] in [0, 1): by how much the square misses the object's center, at 0.5
            nothing, at the ends 0.3 of its side.
    """
    found = []
    for axis, luck in zip((1, 2), chance, strict=True):
        weight = coverage.float().sum(3 - axis)
        size = weight.shape[1]
        turn = torch.arange(size, dtype=torch.float32, device=weight.device) * (2 * torch.pi / size)
        center = torch.atan2((weight * turn.sin()).sum(1), (weight * turn.cos()).sum(1))
        center = center.remainder(2 * torch.pi) * (size / (2 * torch.pi))  # the picture is a torus
        center = torch.where(weight.sum(1) > 0, center, size / 2)
        start = (
            (center + (luck - 0.5) * (0.6 * side) - side / 2).round().long().clamp(0, size - side)
        )
        found.append(start[:, None] + torch.arange(side, dtype=torch.int64, device=weight.device))
    return found[0], found[1]


@dataclass(frozen=True, eq=False)
class LatentClips:
    """Clips encoded by a VAE, with the caption of each of their blocks.

    Attributes:
        latents: bfloat16 [clips, channels, frames, height, width], normalized.
        captions: of each clip, one caption a block, without the scene-cut prefix; a clip with fewer
            captions than blocks is filled up behind them, with zeros.
        cuts: bool [clips, blocks], True where a block begins with a cut.
    """

    latents: Tensor
    captions: tuple[tuple[str, ...], ...]
    cuts: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def save(self, folder: Path, source: Mapping[str, Any]) -> None:
        """Write the clips as a latent cache, which :meth:`load` reads.

        The cache is written beside ``folder`` and renamed when it is complete: a process that is
        killed while it writes leaves no folder of that name.

        Args:
            folder: the folder of the cache, which does not exist yet.
            source: everything that the latents depend on, as values that JSON can hold.
        """
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors = {"latents": self.latents.cpu().contiguous(), "cuts": self.cuts.cpu()}
        save_tensors(tensors, part / "latents.safetensors", named=folder)
        (part / "captions.json").write_text(json.dumps(self.captions))
        (part / "source.json").write_text(json.dumps(source, indent=2) + "\n")
        part.rename(folder)

    @classmethod
    def load(cls, folder: Path, source: Mapping[str, Any], device: torch.device) -> "LatentClips":
        """Read the clips that :meth:`save` wrote, with their latents on ``device``.

        Raises:
            ValueError: the cache was made from another ``source`` than this one.
        """
        recorded = json.loads((folder / "source.json").read_text())
        changed = differences(recorded, json.loads(json.dumps(source)))
        if changed:
            raise ValueError(
                f"the latent cache {folder} was made from other clips ({'; '.join(changed)}): "
                f"training on it would not be what the config says. Name another latent_cache, or "
                f"remove this one."
            )
        tensors = read_safetensors(folder / "latents.safetensors")
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
    """Draw clips and encode them, ``batch`` at a time.

    Args:
        encode: takes a video, float32 [clips, 3, frames, height, width] in [-1, 1], and returns
            its normalized latents, [clips, channels, frames, height, width].
        clips: clips of one format and length.
        device: where they are drawn; the latents stay where ``encode`` puts them.
        batch: how many clips are drawn and encoded at once.
    """
    parts = [
        encode(draw(clips[first : first + batch], device=device)).to(torch.bfloat16).contiguous()
        for first in range(0, len(clips), batch)
    ]
    return _with_words(torch.cat(parts), clips)


def described_clips(clips: list[Clip], shape: Sequence[int], device: torch.device) -> LatentClips:
    """Clips that are not encoded: their captions and cuts, and one zero for all their latents.

    Args:
        clips: clips of one format and length.
        shape: [channels, frames, height, width] of a clip's latents.
        device: where the zero is.
    """
    zero = torch.zeros((), dtype=torch.bfloat16, device=device)
    return _with_words(zero.expand(len(clips), *shape), clips)


def _with_words(latents: Tensor, clips: list[Clip]) -> LatentClips:
    captions = tuple(tuple(made.captions) for made in clips)
    cuts = torch.tensor([made.cuts for made in clips], dtype=torch.bool, device="cpu")
    return LatentClips(latents, captions, cuts)


class Tokenizes(Protocol):
    """A text encoder, as far as clips need one."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Numbers of each prompt, int64 [prompts, length] on the CPU."""


@dataclass(frozen=True, eq=False)
class TokenClips:
    """Encoded clips with all inputs of the teacher-forcing loss.

    Attributes:
        latents: bfloat16 [clips, channels, frames, height, width]; where several ranks share a
            clip, the frames of this rank.
        ids: token numbers of the prompts [clips, blocks, text_len], scene-cut prefixes included.
        positions: float32 [clips, frames], in latent frames, shot offsets included.
        tables: bool [clips, 2 blocks, 2 blocks], the teacher-forcing mask.
        tokens_per_frame: how many tokens a latent frame has.
        prompts: of each clip, what its ids are of, block by block.
        cuts: bool [clips, blocks] on the CPU, True where a block begins with a cut.
        lengths: int64 [clips] on the CPU, blocks of each clip, those that fill it up left out; None
            where no clip is filled up.
    """

    latents: Tensor
    ids: Tensor
    positions: Tensor
    tables: Tensor
    tokens_per_frame: int
    prompts: tuple[tuple[str, ...], ...]
    cuts: Tensor
    lengths: Tensor | None = None

    @classmethod
    def of(
        cls,
        clips: LatentClips,
        text: Tokenizes,
        *,
        window: WindowPolicy,
        frames_per_block: int,
        tokens_per_frame: int,
        shot_offset: float,
        order: Sequence[tuple[int, bool]] | None = None,
    ) -> "TokenClips":
        """Turn captions into token numbers, and cuts into positions and masks.

        All tensors of the result are on the device of the clips' latents.

        Args:
            clips: the encoded clips.
            text: tokenizes the prompts.
            window: which pages a block sees.
            frames_per_block: latent frames in a block.
            tokens_per_frame: tokens in a latent frame.
            shot_offset: latent frames by which each cut moves the positions after it.
            order: the order of blocks along a mask's sides, as ``teacher_forcing_table`` takes it.
        """
        blocks, device = clips.cuts.shape[1], clips.latents.device
        lengths = [len(captions) for captions in clips.captions]
        anchors = [shot_anchors(blocks, row.nonzero().flatten().tolist()) for row in clips.cuts]
        kinds = list(zip(anchors, lengths, strict=True))
        known = {kind: _table(window, *kind, order) for kind in set(kinds)}
        prompts = [
            SCENE_CUT_PREFIX + caption if cut else caption
            for captions, cuts in zip(clips.captions, clips.cuts.tolist(), strict=True)
            for caption, cut in zip((*captions, *[""] * blocks)[:blocks], cuts, strict=True)
        ]
        shots = clips.cuts.cumsum(1).repeat_interleave(frames_per_block, 1)
        frames = torch.arange(blocks * frames_per_block, dtype=torch.int64, device="cpu")
        filled = any(length < blocks for length in lengths)
        return cls(
            latents=clips.latents,
            ids=text.tokenize(prompts).unflatten(0, (len(clips), blocks)).to(device),
            positions=(frames + shots * shot_offset).float().to(device),
            tables=torch.stack([known[kind] for kind in kinds]).to(device),
            tokens_per_frame=tokens_per_frame,
            prompts=tuple(
                tuple(prompts[n : n + blocks]) for n in range(0, len(prompts), max(blocks, 1))
            ),
            cuts=clips.cuts.cpu(),
            lengths=torch.tensor(lengths, dtype=torch.int64, device="cpu") if filled else None,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` clips, with repetition: their indices, int64 [count]."""
        return torch.randint(len(self), (count,), generator=generator, device=generator.device).to(
            self.ids.device
        )

    def draw_alike(self, count: int, generator: torch.Generator) -> Tensor:
        """As ``draw``, of clips with the same cuts as one that is drawn first; on the CPU."""
        first = int(torch.randint(len(self), (1,), generator=generator, device="cpu"))
        alike = (self.cuts == self.cuts[first]).all(1).nonzero().flatten()
        return alike[torch.randint(len(alike), (count,), generator=generator, device="cpu")]

    def mask(self, some: Tensor) -> TableMask:
        """The teacher-forcing mask of the clips with indices ``some``: which tokens see which."""
        frames_per_block = self.positions.shape[1] // self.ids.shape[1]
        mask = TableMask(self.tables[some], self.tokens_per_frame * frames_per_block)
        if some.device.type == "cuda":
            mask.flex(some.device)  # made here, for a compiled model cannot
        return mask


def _table(
    window: WindowPolicy,
    anchors: tuple[int, ...],
    length: int,
    order: Sequence[tuple[int, bool]] | None,
) -> Tensor:
    """A clip's mask in blocks; blocks that fill it up see themselves alone."""
    table = teacher_forcing_table(window, anchors, order=order)
    blocks = len(anchors)
    if length == blocks:
        return table
    places = order or [(block, noisy) for noisy in (False, True) for block in range(blocks)]
    filling = torch.tensor([block >= length for block, _ in places], dtype=torch.bool, device="cpu")
    alone = torch.eye(2 * blocks, dtype=torch.bool, device="cpu")
    return torch.where(filling[:, None] | filling[None, :], alone, table)


def to_bytes(video: Tensor) -> Tensor:
    """Values in [-1, 1] as uint8 from 0 to 255; values outside are clamped."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(pictures: Tensor) -> Tensor:
    """Values from 0 to 255 as float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1
