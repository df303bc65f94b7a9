"""Opening a part of the model in whatever layout it is stored, under published names."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from longlive_models.checkpoints.nvfp4 import PackedConfig, packed_state
from longlive_models.checkpoints.tensor_files import require_numbers
from longlive_models.layouts.depth import config_beside
from longlive_models.layouts.forms import Hints, Packed, read_forms
from longlive_models.layouts.key_maps import to_published
from longlive_models.layouts.recognize import named, require_part
from longlive_models.layouts.sources import Entry, Source, open_source
from longlive_models.layouts.wrappers import unwrapped

CONFIG = "longlive_config"
"""The key of a file's metadata under which files of this library have the part's config."""

_TIED = "encoder.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """The weights of a part, by published names; none is read before it is asked for.

    Attributes:
        path: the file or folder.
        part: "transformer", "vae" or "text_encoder".
        layout: whose names the file has: "published" or "diffusers".
        plain: the weights that are not packed.
        packed: the packed weights, by the name of their module.
        notes: what the file says beside its tensors.
    """

    path: Path
    part: str
    layout: str
    plain: Mapping[str, Entry]
    packed: Mapping[str, Packed]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all weights, of packed ones those of their values."""
        return {
            **{name: entry.shape for name, entry in self.plain.items()},
            **{f"{name}.weight": weight.shape for name, weight in self.packed.items()},
        }

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The config beside the weights, Diffusers' or this library's; None if there is none."""
        config = self.notes.get("config")
        if isinstance(self.notes.get(CONFIG), str):
            config = json.loads(self.notes[CONFIG])
        return config if isinstance(config, Mapping) else None

    def read(
        self, *, check: bool = True, placed: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Read all weights to the CPU, those that can be mapped without a copy.

        Packed ones get this library's form. ``check`` searches plain ones for NaN and infinities,
        which reads every value. ``placed`` is called with each plain weight that had to be decoded,
        and returns what is kept of it: so no two of them are in memory as they were decoded.

        Raises:
            ValueError: a weight cannot be read, or holds no number.
        """
        tensors = {}
        for name, tensor in self.each():
            if check:
                require_numbers({name: tensor}, self.path)
            decoded = name in self.plain and self.plain[name].decoded
            tensors[name] = tensor if placed is None or not decoded else placed(tensor)
        return tensors

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """Read the weights one after another, packed ones in this library's form."""
        for name, entry in self.plain.items():
            yield name, entry.read()
        for name, weight in self.packed.items():
            yield from packed_state(name, weight.read()).items()

    def packed_config(self) -> PackedConfig | None:
        """The format of packed weights, read from the first of them; None if none is packed."""
        first = next(iter(self.packed.values()), None)
        return None if first is None else PackedConfig(weight=first.read().config)


def open_part(path: str | Path, part: str, hints: Hints | None = None) -> PartFile:
    """Open the weights of a part in any layout that is known here.

    Args:
        path: a file, or a folder of safetensors.
        part: the part that it must hold: "transformer", "vae" or "text_encoder".
        hints: what the file does not say of packed weights.

    Raises:
        ValueError: it is missing, incomplete, of another part or another model, or something that
            is needed to read it would have to be guessed.
    """
    return _opened(open_source(path), part, Hints() if hints is None else hints)


def open_any(path: str | Path, hints: Hints | None = None) -> PartFile:
    """Open a file whichever part it holds. Raises ValueError as ``open_part`` does."""
    source = open_source(path)
    found = named(unwrapped(source.entries))[1]
    part = found.part if found.part in ("vae", "text_encoder") else "transformer"
    return _opened(source, part, Hints() if hints is None else hints)


def _opened(source: Source, part: str, hints: Hints) -> PartFile:
    names, found = named(unwrapped(source.entries))
    require_part(found, part, source.path)
    entries = {short: source.entries[full] for short, full in names.items()}
    plain, packed = read_forms(entries, source.notes, hints, source.path)
    if found.layout == "diffusers":
        if "shared.weight" in plain:
            plain.pop(_TIED, None)
        elif _TIED in plain:
            plain["shared.weight"] = plain.pop(_TIED)
        modules = {name: f"{name}.weight" for name in packed}
        known = to_published(part, [*plain, *modules.values()])
        plain = {known[name] or name: entry for name, entry in plain.items()}
        packed = {
            (known[weight] or weight).removesuffix(".weight"): packed[name]
            for name, weight in modules.items()
        }
    opened = PartFile(
        path=source.path,
        part=part,
        layout=found.layout,
        plain=plain,
        packed=packed,
        notes=source.notes,
    )
    beside = None
    if opened.config is None and source.path.is_file():
        beside = config_beside(source.path, part, opened.shapes)
    return opened if beside is None else replace(opened, notes={**source.notes, "config": beside})
