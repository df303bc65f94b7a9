"""Scales and codes of other libraries' packed matrices: reading, checking, and their orders.

The parts of ``external_formats`` that know a library's arithmetic and its bytes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_core.checks import shown
from longlive_core.nvfp4.format import QuantizeConfig
from longlive_core.nvfp4.scale_layout import swizzle, swizzled_size
from longlive_core.nvfp4.scale_rules import decode_scale, divide, encode_scale
from longlive_core.nvfp4.tensor import NVFP4Tensor

Tensors = Mapping[str, Tensor]

CODES, SCALES = "codes", "scales"
"""The names of what ``unpack`` functions give: codes, low nibble first, and block scales."""

ACTIVATION_SCALES = ("act_per_tensor_scale", "input_scale", "input_global_scale")

MLX_FULL_SCALE = 6.0 * 448.0
"""What MLX divides its global scale by, whatever the rule."""

SUPER_BLOCK = 64
"""The values of a block of GGUF, which has four blocks of 16 with their scales before them."""


def is_dead(q: NVFP4Tensor) -> bool:
    """Whether it was packed from zeros: a tensor scale of 0, and nothing that contradicts it."""
    if bool(q.amax.any()):
        return False
    scales = q.block_scales.view(torch.uint8) & 0x7F
    return bool(((scales == 0) | (scales == 0x7F)).all()) or not bool((q.codes & 0x77).any())


def zeros_like(q: NVFP4Tensor) -> NVFP4Tensor:
    scales = torch.zeros_like(q.block_scales.view(torch.uint8)).view(torch.float8_e4m3fn)
    return replace(q, codes=torch.zeros_like(q.codes), block_scales=scales)


def activation_problem(tensors: Tensors) -> str | None:
    """Scales of activations are not used; one that is none says that the file is damaged."""
    for name in ACTIVATION_SCALES:
        scale = tensors.get(name)
        if scale is not None and not bool((scale.isfinite() & (scale > 0)).all()):
            return f"its {name} is {shown(scale.flatten().tolist())}, and a scale is above 0"
    return None


def stored_amax(name: str) -> Callable[[Tensors, QuantizeConfig], Tensor]:
    def amax(tensors: Tensors, config: QuantizeConfig) -> Tensor:
        return scalar(tensors[name], name)

    return amax


def _amax_of(
    stored: Tensor,
    guess: Tensor,
    scale: Callable[[Tensor, QuantizeConfig], Tensor],
    config: QuantizeConfig,
) -> Tensor:
    """The A whose ``scale`` is ``stored``, to the bit where there is one; else next to it.

    ``guess`` may be a neighbor of it, because its own computation rounds.
    """
    for to in (torch.inf, -torch.inf):
        other = torch.nextafter(guess, torch.full_like(guess, to))
        better = (scale(guess, config) != stored) & (scale(other, config) == stored)
        guess = torch.where(better, other, guess)
    return guess


def amax_of_decode_scale(name: str) -> Callable[[Tensors, QuantizeConfig], Tensor]:
    """The amax where A / R is stored under ``name``; without it A / R is 1."""

    def amax(tensors: Tensors, config: QuantizeConfig) -> Tensor:
        stored = scalar(tensors[name], name) if name in tensors else _number(1.0)
        return _amax_of(stored, stored * config.full_scale, decode_scale, config)

    return amax


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def amax_mlx(tensors: Tensors, config: QuantizeConfig) -> Tensor:
    """The amax where 2688 A / R is stored, or nothing, which leaves A / R = 1."""
    name = "global_scale"
    if name not in tensors:
        return _number(config.full_scale)
    stored = scalar(tensors[name], name)
    return stored * (config.full_scale / MLX_FULL_SCALE)


def amax_compressed(tensors: Tensors, config: QuantizeConfig) -> Tensor:
    stored = scalar(tensors["weight_global_scale"], "weight_global_scale")
    return _amax_of(stored, divide(config.full_scale, stored), encode_scale, config)


def mlx_scale(q: NVFP4Tensor) -> dict[str, Tensor]:
    return {"global_scale": q.amax.reshape(()) * (MLX_FULL_SCALE / q.config.full_scale)}


def longlive_scale(q: NVFP4Tensor) -> dict[str, Tensor]:
    rows, cols = q.shape
    padded = (-(-rows // 128) * 128, -(-cols // 64) * 64)
    metadata = torch.tensor((rows, cols, *padded), dtype=torch.int32, device=q.device)
    return {
        "quantized_weight_amax": q.amax.reshape(1),
        "quantized_weight_metadata": metadata,
    }


def plain(scales: Tensor, swizzled: bool) -> Tensor:
    return swizzle(scales) if swizzled else scales


def in_whole_tiles(scales: Tensor, swizzled: bool) -> Tensor:
    """Transformer Engine pads either order, and shapes both as the padded matrix."""
    rows, cols = scales.shape
    height, width = swizzled_size(rows, cols)
    if swizzled:
        return swizzle(scales).view(height, width)
    padded = F.pad(scales.view(torch.uint8), (0, width - cols, 0, height - rows))
    return padded.view(torch.float8_e4m3fn)


def in_tile_rows(scales: Tensor, swizzled: bool) -> Tensor:
    """TorchAO shapes swizzled scales 32 by 16 a tile."""
    height, width = swizzled_size(*scales.shape)
    return swizzle(scales).view(height // 4, width * 4) if swizzled else scales


def cropped(matrix: Tensor, rows: int, cols: int, name: str, *, padded: bool = True) -> Tensor:
    """The part that is not padding; padding fills whole tiles of 128 rows and 64 columns."""
    height, width = matrix.shape if matrix.ndim == 2 else (0, 0)
    if not padded and (height, width) != (rows, cols) and height >= rows and width >= cols:
        raise ValueError(
            f"{name} has shape {(height, width)}, and {rows} rows of {cols} are never padded in "
            f"this convention: the file may be of another one that has the same names, with "
            f"scales in another order. Say which it is."
        )
    if not (rows <= height <= rows + 127 and cols <= width <= -(-cols // 32) * 32):
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}, which does not hold {rows} rows of {cols}. "
            f"Is it of another matrix, or of another convention?"
        )
    return matrix[:rows, :cols].contiguous()


def logical_shape(
    tensors: Tensors, codes: Tensor, shape: tuple[int, int] | None
) -> tuple[int, int]:
    if shape is None and "quantized_weight_metadata" in tensors:
        rows, cols = tensors["quantized_weight_metadata"].tolist()[:2]
        return rows, cols
    if codes.ndim != 2:
        raise ValueError(f"packed codes are a matrix of bytes, got shape {tuple(codes.shape)}.")
    return (codes.shape[0], codes.shape[1] * 2) if shape is None else shape


def as_bytes(tensor: Tensor, name: str) -> Tensor:
    if tensor.element_size() != 1:
        raise ValueError(
            f"{name} holds bytes (codes or E4M3 scales), got {tensor.dtype}: the checkpoint was "
            f"cast when it was saved. Take the original file."
        )
    return tensor.view(torch.uint8)


def scalar(tensor: Tensor, name: str) -> Tensor:
    """A tensor scale: one number, or a vector where a matrix was made of several."""
    if tensor.dtype != torch.float32:
        raise ValueError(
            f"{name} is one float32 number for the matrix, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}: the checkpoint was cast when it was saved."
        )
    return tensor.reshape(() if tensor.numel() == 1 else -1)


def require_groups(amax: Tensor, groups: int) -> None:
    """Raise ValueError unless there is one tensor scale, or one for each of ``groups`` parts."""
    if amax.numel() not in (1, groups):
        wanted = "one float32 number" if groups == 1 else f"one float32 number, or {groups},"
        raise ValueError(
            f"the tensor scale is {wanted} for the matrix, got {amax.numel()}: scales of rows or "
            f"experts are not read here. A matrix that was made of several is read with groups=."
        )


def same(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors as they are."""
    return dict(tensors)


def swap_nibbles(codes: Tensor) -> Tensor:
    """The same codes with both halves of each byte exchanged."""
    return codes << 4 | codes >> 4


def unpack_comfyui(tensors: Tensors) -> dict[str, Tensor]:
    """ComfyUI's tensors with the first value of a byte in its low nibble."""
    kind = _format_of(tensors["comfy_quant"])
    if kind != "nvfp4":
        raise ValueError(
            f"comfy_quant says that the format is {shown(kind)}, and 'nvfp4' is read as NVFP4. "
            f"Take the model in another precision."
        )
    codes = as_bytes(tensors["weight"], "weight")
    return {**tensors, "weight": swap_nibbles(codes)}


def pack_comfyui(tensors: Tensors) -> dict[str, Tensor]:
    """The inverse of ``unpack_comfyui``; rows are padded to multiples of 16, as it has them."""
    codes = swap_nibbles(tensors["weight"])
    codes = F.pad(codes, (0, 0, 0, -codes.shape[0] % 16))
    note = json.dumps({"format": "nvfp4"}).encode()
    marker = torch.tensor(list(note), dtype=torch.uint8, device=codes.device)
    return {**tensors, "weight": codes, "comfy_quant": marker}


def _format_of(marker: Tensor) -> object:
    try:
        content = json.loads(bytes(marker.to(torch.uint8).flatten().tolist()))
    except ValueError:
        return None
    return content.get("format") if isinstance(content, dict) else None


def unpack_mlx(tensors: Tensors) -> dict[str, Tensor]:
    """MLX's words of eight codes as bytes."""
    words = tensors["weight"]
    if words.dtype not in (torch.uint32, torch.int32):
        raise ValueError(
            f"weight in the mlx convention has words of 32 bits with eight codes, got "
            f"{words.dtype}: the checkpoint was cast, or is of another convention."
        )
    return {**tensors, "weight": words.contiguous().view(torch.uint8)}


def pack_mlx(tensors: Tensors) -> dict[str, Tensor]:
    """The inverse of ``unpack_mlx``; block scales are bytes."""
    return {
        **tensors,
        "weight": tensors["weight"].contiguous().view(torch.uint32),
        "scales": tensors["scales"].view(torch.uint8),
    }


def unpack_gguf(tensors: Tensors) -> dict[str, Tensor]:
    """Codes and block scales of GGUF's blocks, uint8 [rows, 36 a block of 64 values]."""
    blocks = as_bytes(tensors["blocks"], "blocks")
    size = 4 + SUPER_BLOCK // 2
    if blocks.ndim != 2 or blocks.shape[1] % size:
        raise ValueError(
            f"blocks of GGUF's NVFP4 have {size} bytes for {SUPER_BLOCK} values, got shape "
            f"{tuple(blocks.shape)}: it is of another format."
        )
    rows = blocks.shape[0]
    four = blocks.view(rows, -1, size)
    halves = four[..., 4:].reshape(rows, -1, 4, 8)
    values = torch.cat((halves & 0xF, halves >> 4), dim=-1)  # values 0-7 are low, 8-15 high
    codes = values[..., ::2] | values[..., 1::2] << 4
    rest = {name: tensor for name, tensor in tensors.items() if name != "blocks"}
    return {**rest, CODES: codes.flatten(1), SCALES: four[..., :4].flatten(1)}


def pack_gguf(tensors: Tensors) -> dict[str, Tensor]:
    """The inverse of ``unpack_gguf``. Raises ValueError for rows that are no whole blocks."""
    codes, scales = tensors[CODES], tensors[SCALES].view(torch.uint8)
    rows, cols = codes.shape[0], 2 * codes.shape[1]
    if cols % SUPER_BLOCK:
        raise ValueError(
            f"GGUF's NVFP4 has blocks of {SUPER_BLOCK} values, and rows of {cols} do not divide "
            f"into them. Keep the matrix in bfloat16."
        )
    values = torch.stack((codes & 0xF, codes >> 4), dim=-1).view(rows, -1, 4, 16)
    halves = values[..., :8] | values[..., 8:] << 4
    blocks = torch.cat((scales.view(rows, -1, 4), halves.flatten(2)), dim=-1)
    rest = {n: tensor for n, tensor in tensors.items() if n not in (CODES, SCALES)}
    return {**rest, "blocks": blocks.flatten(1)}
