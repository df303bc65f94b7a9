"""A stream between two blocks, in one file: tensors as safetensors, the rest as JSON in its header.

The file is written beside its place and renamed into it: a process that is killed leaves the
snapshot before, whole.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longlive_core.kv_cache import CacheSnapshot
from longlive_models.generator import GeneratorState, KeptBlock
from longlive_models.shots import BlockPrompt, BlockTiming, ShotPlan
from longlive_models.vae import StreamState
from longlive_models.video_block import Timing, VideoBlock

_FORMAT = 1
_KEY = "longlive_stream"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What made a stream, and must be there again for it to go on bit for bit.

    Attributes:
        version: of this library.
        model: SHA-256 of the weights.
        weights, compute, kv_cache: precisions, as ``Placement`` names them.
        settings: ``GenerationSettings.to_dict()``.
    """

    version: str
    model: str
    weights: str
    compute: str
    kv_cache: str
    settings: dict[str, Any]

    def require(self, here: "Origin", path: Path) -> None:
        """Raise ValueError if what is ``here`` would not go on as what made this."""
        saved, own = ({**asdict(origin), **origin.settings} for origin in (self, here))
        for name in (name for name in saved if name != "settings"):
            if saved[name] != own[name]:
                raise ValueError(
                    f"{path} was made with {name} {saved[name]!r}, but here it is {own[name]!r}: "
                    f"a stream goes on bit for bit, so what makes its frames must be the same. "
                    f"Load the pipeline as it was, or start a new stream."
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamSnapshot:
    """All that a stream is after a block that came out.

    Attributes:
        origin: what made it.
        seed: of its noise.
        plan: what is shown where nobody steers.
        events: as ``SteeringEvent.to_dict`` gives them.
        generator: pages and latents, after every block generated.
        decoder: the VAE's past, after every block decoded, which are the same; None for none.
        ready: blocks that are decoded and have not come out yet.
        notes: what who took it wrote down, as values that JSON can hold.
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
        """Write it, in place of what is there."""
        path = Path(path)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            save_file(dict(self._tensors()), new, metadata={_KEY: json.dumps(self._record())})
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "StreamSnapshot":
        """What ``save`` wrote.

        Raises:
            ValueError: there is no such file, or it holds no snapshot of a stream.
        """
        record, tensors = _read(Path(path), whole=True)
        return cls._from(record, tensors)

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
    def _from(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "StreamSnapshot":
        decoder = _below("decoder.", tensors)
        return cls(
            origin=Origin(**record["origin"]),
            seed=record["seed"],
            plan=_plan(record["plan"]),
            events=tuple(record["events"]),
            generator=GeneratorState(
                cache=CacheSnapshot.from_dict(record["cache"], _below("cache.", tensors)),
                kept={
                    int(page): KeptBlock(tensors[f"latents.{page}"], offset)
                    for page, offset in record["offsets"].items()
                },
                image=tensors.get("image"),
            ),
            decoder=StreamState.from_tensors(decoder) if decoder else None,
            ready=tuple(
                VideoBlock(
                    block["index"],
                    tensors[f"frames.{block['index']}"],
                    BlockPrompt(**block["prompt"]),
                    Timing(**block["timing"]),
                )
                for block in record["ready"]
            ),
            notes=record["notes"],
        )


@dataclass(frozen=True, kw_only=True)
class SnapshotSummary:
    """What a snapshot is of; read without its tensors.

    Attributes:
        origin, seed, plan, events, notes: see ``StreamSnapshot``.
        block: the one that comes out next.
    """

    origin: Origin
    seed: int
    plan: ShotPlan
    events: tuple[dict[str, Any], ...]
    notes: Mapping[str, Any]
    block: int

    @classmethod
    def read(cls, path: str | Path) -> "SnapshotSummary":
        """What ``StreamSnapshot.load`` would find. Raises ValueError as that does."""
        record, _ = _read(Path(path), whole=False)
        return cls(
            origin=Origin(**record["origin"]),
            seed=record["seed"],
            plan=_plan(record["plan"]),
            events=tuple(record["events"]),
            notes=record["notes"],
            block=record["cache"]["blocks"] - len(record["ready"]),
        )


def _plan(values: Mapping[str, Any]) -> ShotPlan:
    timing = BlockTiming(**values["timing"])
    lists = {name: tuple(values[name]) for name in ("prompts", "lengths")}
    return ShotPlan(**{**values, **lists, "timing": timing})


def _read(path: Path, *, whole: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record, and, of the ``whole`` file, the tensors."""
    if not path.is_file():
        raise ValueError(
            f"there is no snapshot {str(path)!r}: a stream goes on from the file that "
            f"stream.snapshot() wrote. Check the path."
        )
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = file.keys() if whole else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}): it may have been copied in part. "
            f"Name a file that stream.snapshot() wrote."
        ) from error
    record = json.loads(header.get(_KEY, "{}"))
    if record.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is no snapshot that this version reads: its format is "
            f"{record.get('format')!r}, expected {_FORMAT}. Name a file that stream.snapshot() "
            f"of this version wrote."
        )
    return record, tensors


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start so, without that start."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
