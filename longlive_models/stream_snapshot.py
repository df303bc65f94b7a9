"""Snapshots: the state of a stream between two blocks, in one file.

It is a safetensors file with a JSON record in its header. It is written under another name and
then renamed, so a process that is killed leaves the former snapshot as it was.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longlive_core.checks import real, shown
from longlive_core.kv_cache import CacheLayout, CacheSnapshot
from longlive_models.block_steps import check_block_steps
from longlive_models.checkpoints.disk import save_tensors
from longlive_models.checkpoints.tensor_files import require_safetensors
from longlive_models.choices import MOST_GUIDANCE
from longlive_models.documents import parse_json, to_json
from longlive_models.file_names import temporary
from longlive_models.generator import check_seed
from longlive_models.latent_block import GeneratorState, KeptBlock
from longlive_models.prompts.steering import LiveSchedule, SteeringEvent
from longlive_models.prompts.storyboard import BlockPrompt, ShotPlan
from longlive_models.schema import build
from longlive_models.settings import GenerationSettings, completed
from longlive_models.vae import StreamState
from longlive_models.video.blocks import Timing, VideoBlock
from longlive_models.video.file_name import file_path

_FORMAT = 1
_SHOWN = 80  # letters: hashes are shown whole
_KEY = "longlive_stream"
_SAME_FRAMES = ("0.1.0", "0.2.0")
"""Versions of this library that give the same frames, and so can continue each other's snapshots.

A version that changes frames on purpose starts a new tuple."""
_WAY_OUT = "Name a snapshot as stream.snapshot() wrote it."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The library, model and settings that made a stream; they must be the same to continue it.

    Attributes:
        version: the version of this library.
        model: SHA-256 of the weights.
        weights, compute, kv_cache: precisions, as ``Runtime`` names them.
        settings: ``GenerationSettings.to_dict()``; "steps", "guidance" and
            "negative_prompt" at least.
        quality: what fast paths might do; that of snapshots that do not say is "lossless".

    Raises ValueError for settings without these.
    """

    version: str
    model: str
    weights: str
    compute: str
    kv_cache: str
    settings: dict[str, Any]
    quality: str = "lossless"

    def __post_init__(self) -> None:
        why = "a stream goes on with the settings it was begun with. " + _WAY_OUT
        get = self.settings.get
        check_block_steps("settings.steps", get("steps"))
        real("settings.guidance", get("guidance"), at_least=0, at_most=MOST_GUIDANCE, why=why)
        if not isinstance(self.settings.get("negative_prompt"), str):
            raise ValueError(f"settings.negative_prompt is a text: {why}")

    def require(self, here: "Origin", path: Path) -> None:
        """Raise ValueError if ``here`` would continue the stream in another way.

        Settings that an earlier version did not have are taken to be their defaults.
        """
        saved, own = (asdict(origin) | completed(origin.settings) for origin in (self, here))
        ignored = {"settings"}  # each of them is compared
        if {self.version, here.version} <= set(_SAME_FRAMES):
            ignored.add("version")
        for name in (name for name in saved | own if name not in ignored):
            before, now = saved.get(name), own.get(name)
            if before != now:
                raise ValueError(
                    f"{path} was made with {name} {shown(before, _SHOWN)}, but here it is "
                    f"{shown(now, _SHOWN)}: "
                    f"a stream goes on bit for bit, so what makes its frames must be the same. "
                    f"Load the pipeline as it was, or start a new stream."
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamSnapshot:
    """The state of a stream after a block was handed out.

    Attributes:
        origin: the library, model and settings that made it.
        seed: the seed of its noise.
        plan: the plan, without the events that change it.
        events: the events, in the form of ``SteeringEvent.to_dict``.
        generator: pages and latents after all blocks that were generated.
        decoder: the VAE's state after the same blocks; None before the first one.
        ready: blocks that are decoded and were not handed out yet.
        notes: the notes of whoever took it, as values that JSON can hold.
    """

    origin: Origin
    seed: int
    plan: ShotPlan
    events: tuple[dict[str, Any], ...]
    generator: GeneratorState
    decoder: StreamState | None
    ready: tuple[VideoBlock, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the file, replacing one that exists; ValueError for notes that JSON cannot hold."""
        path = Path(path)
        record = to_json(self._record(), "a snapshot's record")
        new = path.with_name(temporary(path.name))
        try:
            save_tensors(dict(self._tensors()), new, metadata={_KEY: record}, named=path)
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "StreamSnapshot":
        """Read the file that ``save`` wrote.

        Raises:
            ValueError: there is no such file, or it holds no snapshot of a stream.
        """
        record, tensors = _read(file_path(path), whole_file=True)
        return cls._from(record, _Tensors(Path(path), tensors))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.generator.cache.tensors.items():
            yield f"cache.{name}", tensor
        for page, kept in self.generator.kept.items():
            yield f"latents.{page}", kept.latents.contiguous()
        if self.generator.image is not None:
            yield "image", self.generator.image.contiguous()
        if self.decoder is not None:
            for name, tensor in self.decoder.to_tensors().items():
                yield f"decoder.{name}", tensor.cpu().contiguous()
        for block in self.ready:
            yield f"frames.{block.index}", block.frames.contiguous()

    def _record(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "origin": asdict(self.origin),
            "seed": self.seed,
            "plan": asdict(self.plan),
            "events": list(self.events),
            "notes": dict(self.notes),
            "cache": self.generator.cache.to_dict(),
            "offsets": {page: kept.offset for page, kept in self.generator.kept.items()},
            "ready": [
                {
                    "index": block.index,
                    "prompt": asdict(block.prompt),
                    "timing": asdict(block.timing),
                }
                for block in self.ready
            ],
        }

    @classmethod
    def _from(cls, record: "_Record", tensors: "_Tensors") -> "StreamSnapshot":
        decoder = tensors.below("decoder.")
        return cls(
            origin=record.origin,
            seed=record.seed,
            plan=record.plan,
            events=tuple(event.to_dict() for event in record.events),
            generator=GeneratorState(
                cache=CacheSnapshot.from_dict(asdict(record.cache), tensors.below("cache.")),
                kept={
                    page: KeptBlock(tensors.of(f"latents.{page}", dims=5), offset)
                    for page, offset in record.offsets.items()
                },
                image=tensors.of("image", dims=5) if "image" in tensors.held else None,
            ),
            decoder=StreamState.from_tensors(decoder) if decoder else None,
            ready=tuple(
                VideoBlock(
                    block.index,
                    tensors.of(f"frames.{block.index}", dims=4, dtype=torch.uint8),
                    block.prompt,
                    block.timing,
                )
                for block in record.ready
            ),
            notes=record.notes,
        )


@dataclass(frozen=True, kw_only=True)
class _ReadyBlock:
    """A block in a snapshot that was not handed out yet."""

    index: int
    prompt: BlockPrompt
    timing: Timing


@dataclass(frozen=True, kw_only=True)
class _CacheRecord:
    """``CacheSnapshot.to_dict``, with its types."""

    layout: CacheLayout
    policy: str
    codec: dict[str, str | int]
    pages: tuple[int | None, ...]
    blocks: int
    shot_start: int
    forgotten: int
    short: dict[int, int]

    def __post_init__(self) -> None:
        held = [page for page in self.pages if page is not None]
        if not isinstance(self.codec.get("name"), str):
            raise ValueError(f"cache.codec has the name of a codec, got {shown(self.codec)}.")
        if max(self.shot_start, self.forgotten) > self.blocks:
            raise ValueError(
                f"its shot starts at page {self.shot_start}, and pages before {self.forgotten} are "
                f"forgotten, of {self.blocks} blocks that were made. {_WAY_OUT}"
            )
        counted = (self.blocks, self.shot_start, self.forgotten, *held, *self.short.values())
        if min(counted) < 0 or len(set(held)) < len(held) or max(held, default=-1) >= self.blocks:
            raise ValueError(
                f"it counts {self.blocks} blocks and holds the pages {shown(held)}: pages are "
                f"blocks that were made, each once. {_WAY_OUT}"
            )


@dataclass(frozen=True, kw_only=True)
class _Record:
    """The record in a snapshot's header; see ``StreamSnapshot``."""

    origin: Origin
    seed: int
    plan: ShotPlan
    events: tuple[SteeringEvent, ...]
    notes: dict[str, Any]
    cache: _CacheRecord
    offsets: dict[int, float]
    ready: tuple[_ReadyBlock, ...]

    def __post_init__(self) -> None:
        check_seed(self.seed)
        GenerationSettings.from_dict(completed(self.origin.settings))
        held = {page for page in self.cache.pages if page is not None}
        if held != self.offsets.keys():
            raise ValueError(
                f"its cache holds the pages {sorted(held)}, and there are latents of "
                f"{sorted(self.offsets)}: each page is made again from its own. {_WAY_OUT}"
            )
        LiveSchedule(self.plan, self.events)
        made, first = self.cache.blocks, self.cache.blocks - len(self.ready)
        if first < 0 or [block.index for block in self.ready] != list(range(first, made)):
            raise ValueError(
                f"it has the blocks {[block.index for block in self.ready]} ready, after {made} "
                f"were made: those that come out next are the last ones. {_WAY_OUT}"
            )


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a snapshot by name, and the file that they are from."""

    path: Path
    held: Mapping[str, Tensor]

    def of(self, name: str, *, dims: int, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor ``name``. Raises ValueError if it is missing or has another type or shape."""
        found = self.held.get(name)
        if found is None or found.ndim != dims or (dtype is not None and found.dtype != dtype):
            has = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise ValueError(
                f"{self.path}: the tensor {name!r} has {dims} dimensions, got {has}: what the file "
                f"says of itself does not fit what it holds. {_WAY_OUT}"
            )
        return found

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with a prefix, under their names without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.held.items()
            if name.startswith(prefix)
        }


@dataclass(frozen=True, kw_only=True)
class SnapshotSummary:
    """The record of a snapshot, read without its tensors.

    Attributes:
        origin, seed, plan, events, notes: see ``StreamSnapshot``.
        block: the number of the block that is handed out next.
    """

    origin: Origin
    seed: int
    plan: ShotPlan
    events: tuple[dict[str, Any], ...]
    notes: Mapping[str, Any]
    block: int

    @classmethod
    def read(cls, path: str | Path) -> "SnapshotSummary":
        """Read the record of a snapshot. Raises ValueError as ``StreamSnapshot.load`` does."""
        record, _ = _read(file_path(path), whole_file=False)
        return cls(
            origin=record.origin,
            seed=record.seed,
            plan=record.plan,
            events=tuple(event.to_dict() for event in record.events),
            notes=record.notes,
            block=record.cache.blocks - len(record.ready),
        )


def snapshot_place(path: str | Path) -> Path:
    """Return ``path`` if a file can be written there, else raise ValueError."""
    place = file_path(path)
    if place.is_dir() or not place.parent.is_dir():
        what = "is a folder" if place.is_dir() else f"is in no folder: {place.parent} is not there"
        raise ValueError(f"the snapshot {place} {what}. Name a file in a folder that is there.")
    return place


def _read(path: Path, *, whole_file: bool) -> tuple[_Record, dict[str, Tensor]]:
    """Read the record of a snapshot, and its tensors unless only the header is asked for."""
    if not path.is_file():
        raise ValueError(
            f"there is no snapshot {str(path)!r}: a stream goes on from the file that "
            f"stream.snapshot() wrote. Check the path."
        )
    require_safetensors(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = file.keys() if whole_file else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}): it may have been copied in part. "
            f"Name a file that stream.snapshot() wrote."
        ) from error
    record = parse_json(header.get(_KEY, "{}"), str(path))
    made = record.get("format") if isinstance(record, dict) else None
    if type(made) is not int or made != _FORMAT:
        raise ValueError(
            f"{path} is no snapshot that this version reads: its format is {shown(made)}, "
            f"expected {_FORMAT}. Name a file that stream.snapshot() of this version wrote."
        )
    values = {name: value for name, value in record.items() if name != "format"}
    return build(_Record, values, path, _WAY_OUT), tensors
