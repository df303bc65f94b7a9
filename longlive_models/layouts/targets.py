"""The weights of a part as another layout has them: names, forms of numbers, files."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from longlive_core.nvfp4 import CONVENTIONS, NVFP4Tensor, QuantizeConfig
from longlive_models.checkpoints.nvfp4 import packed_state
from longlive_models.layouts.forms import NOTE, Packed
from longlive_models.layouts.gguf_files import Planned
from longlive_models.layouts.key_maps import to_diffusers
from longlive_models.layouts.part_files import PartFile
from longlive_models.layouts.sources import Entry
from longlive_models.layouts.writing import Named

BLOCK_LINEAR = re.compile(r"blocks\.\d+\.(?:(?:self|cross)_attn\.[qkvo]|ffn\.[02])\.weight")
"""The weights that programs store in fewer bits."""

E4M3_MAX = 448.0
_FILE_PREFIX = {"torchao": "_weight_"}


def plain_entries(part: PartFile, dtype: torch.dtype | None) -> list[tuple[str, Entry]]:
    """All weights by published names, packed ones decoded; None keeps the types of plain ones."""
    named = [(name, _cast(entry, dtype)) for name, entry in part.plain.items()]
    wanted = torch.bfloat16 if dtype is None else dtype
    for name, weight in part.packed.items():
        named.append((f"{name}.weight", _decoded(weight, wanted)))
    return named


def own_entries(part: PartFile, dtype: torch.dtype | None) -> list[tuple[str, Entry]]:
    """All weights in this library's form; packed ones stay packed."""
    named = [(name, _cast(entry, dtype)) for name, entry in part.plain.items()]
    for name, weight in part.packed.items():
        named += _several(weight, partial(packed_state, name))
    return named


def in_diffusers_names(part: PartFile, named: Named, source: object) -> list[tuple[str, Entry]]:
    """The same weights under Diffusers' names. Raises ValueError for one that it has not."""
    found = []
    for name, entry in named:
        foreign = to_diffusers(part.part, name)
        if foreign is None:
            raise ValueError(
                f"{source} holds {name}, for which Diffusers' model has no name: it would be lost. "
                f"Take the plain model."
            )
        found.append((foreign, entry))
    return found


def convention_entries(
    part: PartFile, convention: str, swizzled: bool | None, dtype: torch.dtype | None
) -> list[tuple[str, Entry]]:
    """All weights, packed ones as another library has them (``CONVENTIONS``)."""
    kind, before = CONVENTIONS[convention], _FILE_PREFIX.get(convention, "")
    named = [(name, _cast(entry, dtype)) for name, entry in part.plain.items()]
    for name, weight in part.packed.items():

        def write(q: NVFP4Tensor, name: str = name) -> dict[str, Tensor]:
            order = swizzled if kind.swizzled is None else None
            written = kind.write(q, swizzled=order)
            return {f"{name}.{before}{key}": tensor for key, tensor in written.items()}

        named += _several(weight, write)
    return named


def convention_note(part: PartFile, convention: str, swizzled: bool | None) -> dict[str, str]:
    """What a file of another library's tensors does not say: for the metadata of ours."""
    config = next(iter(part.packed.values())).read().config
    told = {"convention": convention, "swizzled": swizzled, "config": config.to_dict()}
    return {NOTE: json.dumps(told)}


def scaled_fp8_entries(part: PartFile, dtype: torch.dtype | None) -> list[tuple[str, Entry]]:
    """All weights, those of block linears in FP8 with one scale each, as ComfyUI has them."""
    named: list[tuple[str, Entry]] = []
    for name, entry in plain_entries(part, dtype):
        if not BLOCK_LINEAR.fullmatch(name):
            named.append((name, entry))
            continue
        module = name.removesuffix(".weight")

        def write(weight: Tensor, module: str = module) -> dict[str, Tensor]:
            values = weight.float()
            scale = values.abs().amax().clamp(min=torch.finfo(torch.float32).tiny) / E4M3_MAX
            codes = (values / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
            return {f"{module}.weight": codes, f"{module}.scale_weight": scale.reshape(1)}

        once = _Once(entry.read, write)
        named.append((name, replace(entry, dtype=torch.float8_e4m3fn, read=once.get(name))))
        scale = f"{module}.scale_weight"
        named.append((scale, Entry(shape=(1,), dtype=torch.float32, read=once.get(scale))))
    marker = torch.zeros(0, dtype=torch.float8_e4m3fn, device="cpu")
    named.append(("scaled_fp8", Entry(shape=(0,), dtype=marker.dtype, read=lambda: marker)))
    return named


def gguf_tensors(part: PartFile, kind: str) -> Iterator[Planned]:
    """All weights for a GGUF file: block linears as ``kind``, other weights in F32 or as they are.

    ``kind`` "NVFP4" takes the packed weights; "" keeps plain ones in the type that they have.
    """
    named = dict(part.plain) if kind == "NVFP4" else dict(plain_entries(part, None))
    for name, entry in named.items():
        of_block = bool(BLOCK_LINEAR.fullmatch(name))
        chosen = kind if kind and kind != "NVFP4" and of_block else _GGUF.get(entry.dtype, "F32")
        if len(entry.shape) < 2:
            chosen = "F32"
        yield Planned(name=name, shape=entry.shape, kind=chosen, read=entry.read)
    for name, weight in part.packed.items() if kind == "NVFP4" else ():
        for key, entry in _several(weight, CONVENTIONS["gguf"].write):
            full = f"{name}.{'weight' if key == 'blocks' else key}"
            kind_of = "NVFP4" if key == "blocks" else "F32"
            yield Planned(name=full, shape=entry.shape, kind=kind_of, read=entry.read)


_GGUF = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def _cast(entry: Entry, dtype: torch.dtype | None) -> Entry:
    if dtype is None or not entry.dtype.is_floating_point or entry.dtype == dtype:
        return entry
    return replace(entry, dtype=dtype, read=lambda: entry.read().to(dtype))


def _decoded(weight: Packed, dtype: torch.dtype) -> Entry:
    return Entry(shape=weight.shape, dtype=dtype, read=lambda: weight.read().dequantize(dtype))


def _several(
    weight: Packed, write: Callable[[NVFP4Tensor], Mapping[str, Tensor]]
) -> list[tuple[str, Entry]]:
    """The entries of the tensors that ``write`` makes of a packed weight, which is read once."""
    rows, cols = weight.shape
    empty = NVFP4Tensor(
        codes=torch.zeros(rows, cols // 2, dtype=torch.uint8, device="cpu"),
        block_scales=torch.zeros(rows, cols // 16, dtype=torch.uint8, device="cpu").view(
            torch.float8_e4m3fn
        ),
        amax=torch.zeros((), dtype=torch.float32, device="cpu"),
        config=QuantizeConfig(),
        shape=(rows, cols),
    )
    once = _Once(weight.read, write)
    return [
        (name, Entry(shape=tuple(like.shape), dtype=like.dtype, read=once.get(name)))
        for name, like in write(empty).items()
    ]


class _Once:
    """Several tensors that are made together of one, and each read once in turn."""

    def __init__(self, read: Callable[[], object], write: Callable[..., object]) -> None:
        self._read, self._write = read, write
        self._made: dict[str, Tensor] = {}

    def get(self, name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            if name not in self._made:
                made = self._write(self._read())
                assert isinstance(made, dict)
                self._made = dict(made)
            return self._made.pop(name)

        return read
