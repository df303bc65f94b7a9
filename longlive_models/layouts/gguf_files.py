"""Reading and writing GGUF files of tensors, through the package ``gguf``.

GGUF holds at most four dimensions. Programs that store a video model in it note the shape of a
tensor with five under ``comfy.gguf.orig_shape.NAME``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longlive_core.checks import shown

GGUF = ".gguf"
ARCHITECTURE = "wan"
SHAPE_KEY = "comfy.gguf.orig_shape."

Described = tuple[tuple[int, ...], torch.dtype, Callable[[], Tensor]]
"""The shape and the type of a tensor, and the function that reads it."""

_PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}


def read_gguf(path: Path) -> tuple[dict[str, Described], dict[str, str]]:
    """Describe the tensors of a GGUF file by name; the second result are the file's short texts.

    NVFP4 is described as its bytes, uint8, under ``.blocks`` in place of ``.weight``, with the
    tensor scale under ``.scale``. Other block formats are decoded to float32 when they are read.

    Raises:
        ValueError: the package is missing, or the file is incomplete or of another kind.
    """
    gguf = _package(path)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}: check the path, or fetch it again.")
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file: its first bytes say so. Check the name.")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as GGUF ({type(error).__name__}: {shown(str(error), 80)}): it "
            f"may be broken, or copied in part. Fetch it again."
        ) from error
    split = reader.get_field("split.count")
    if split is not None and int(split.contents()) > 1:
        raise ValueError(
            f"{path} is one of {int(split.contents())} files of a model, as it says (split.count): "
            f"several are not read here. Merge them with `gguf-split --merge`, or take the model "
            f"in one file."
        )
    texts = {
        name: str(field.contents())
        for name, field in reader.fields.items()
        if field.types == [gguf.GGUFValueType.STRING]
    }
    return {_name(tensor): _describe(gguf, reader, tensor) for tensor in reader.tensors}, texts


def _name(tensor: Any) -> str:
    name = str(tensor.name)
    if tensor.tensor_type.name == "NVFP4":
        return f"{name.removesuffix('.weight')}.blocks"
    return name.replace(".weight.scale", ".scale")


def _describe(gguf: Any, reader: Any, tensor: Any) -> Described:
    kind = tensor.tensor_type.name
    shape = tuple(int(side) for side in reversed(tensor.shape.tolist()))
    noted = reader.get_field(f"{SHAPE_KEY}{tensor.name}")
    if noted is not None:
        shape = tuple(int(side) for side in noted.contents())
    data = tensor.data
    if kind in _PLAIN:
        return shape, _PLAIN[kind], lambda: _tensor(data).reshape(shape)
    if kind == "BF16":
        return shape, torch.bfloat16, lambda: _tensor(data).view(torch.bfloat16).reshape(shape)
    if kind == "NVFP4":
        rows = data.shape[0]
        return (rows, data.shape[1]), torch.uint8, lambda: _tensor(data)
    decode = gguf.quants.dequantize
    return (
        shape,
        torch.float32,
        lambda: torch.from_numpy(decode(data, tensor.tensor_type)).reshape(shape),
    )


def _tensor(data: Any) -> Tensor:
    return torch.from_numpy(np.array(data, copy=True))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A tensor that is to be written: its name, its shape, its GGUF type, and what reads it.

    ``kind`` is "F32", "F16", "BF16", a block format that ``gguf`` can encode, or "NVFP4", whose
    bytes are read as uint8 [rows, bytes].
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Tensor]


def write_gguf(
    path: Path,
    tensors: Sequence[Planned],
    notes: Mapping[str, str],
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write tensors one after another; ``notes`` are texts that are stored under their keys.

    ``progress`` is called with the name of each tensor that was written.

    Raises:
        ValueError: the package is missing, or a row does not divide into the blocks of its type.
    """
    gguf = _package(path)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    try:
        for key, text in notes.items():
            writer.add_string(key, text)
        for one in tensors:
            _announce(gguf, writer, one)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in tensors:
            writer.write_tensor_data(_encoded(gguf, one))
            if progress is not None:
                progress(one.name)
    finally:
        writer.close()


def _announce(gguf: Any, writer: Any, one: Planned) -> None:
    kind = getattr(gguf.GGMLQuantizationType, one.kind)
    shape = one.shape
    if len(shape) > 4:
        writer.add_array(f"{SHAPE_KEY}{one.name}", list(shape))
        shape = (shape[0], math.prod(shape[1:]))
    if one.kind != "NVFP4":
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        if shape and shape[-1] % block:
            raise ValueError(
                f"{one.name} has rows of {shape[-1]}, which do not divide into blocks of {block} "
                f"of GGUF's {one.kind}: keep it in BF16."
            )
        shape = gguf.quant_shape_to_byte_shape(shape, kind) if block > 1 else shape
    size = math.prod(shape) * _ITEM.get(one.kind, 1)
    dtype = np.dtype(np.uint8)
    if one.kind == "BF16":
        shape = (*shape[:-1], shape[-1] * 2)
    elif one.kind in _ITEM:
        dtype = np.dtype(str(_PLAIN[one.kind]).removeprefix("torch."))
    writer.add_tensor_info(one.name, shape, dtype, size, raw_dtype=kind)


_ITEM = {**{name: dtype.itemsize for name, dtype in _PLAIN.items()}, "BF16": 2}
"""The bytes of a value of the types without blocks."""


def _encoded(gguf: Any, one: Planned) -> Any:
    """The bytes of a tensor as its type stores them."""
    tensor = one.read().detach().cpu()
    if len(one.shape) > 4:
        tensor = tensor.reshape(one.shape[0], -1)
    if one.kind == "NVFP4":
        return tensor.contiguous().numpy()
    if one.kind == "BF16":
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if one.kind in _PLAIN:
        return tensor.to(_PLAIN[one.kind]).contiguous().numpy()
    wanted = getattr(gguf.GGMLQuantizationType, one.kind)
    return gguf.quants.quantize(tensor.float().contiguous().numpy(), wanted)


def _package(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ValueError(
            f"{path.name} is in GGUF, which the package gguf reads and writes, and it is not "
            f'installed: pip install "longlive[gguf]".'
        ) from error
    return gguf
