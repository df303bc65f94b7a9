"""NVFP4Tensor: codes, block scales and amax that travel together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float8e4m3fn, Float32, UInt8
from torch import Tensor

from longlive_core.checks import shown, text, whole
from longlive_core.nvfp4 import quantize_ops as quantize_ops  # registers torch.ops.longlive.nvfp4_*
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, config_text
from longlive_core.tensor_checks import dense, float_type, place


@dataclass(frozen=True, kw_only=True, eq=False)
class NVFP4Tensor:
    """A quantized matrix; ``reference.py`` says what the fields mean.

    ``shape`` is that of what was quantized; leading dimensions are rows of the matrix. Codes and
    scales are padded with zeros to whole blocks. ``amax`` is a scalar, or a vector where groups of
    rows have one each. ``config`` belongs to the format: without it the bits mean nothing.
    """

    codes: UInt8[Tensor, "rows half_cols"]
    block_scales: Float8e4m3fn[Tensor, "rows blocks"]
    amax: Float32[Tensor, "*groups"]
    config: QuantizeConfig
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.config, QuantizeConfig) or len(self.shape) == 0:
            raise ValueError(
                f"NVFP4Tensor of shape {self.shape} with config={shown(self.config)}: it has a "
                f"QuantizeConfig, which gives its bits a meaning, and at least one dimension."
            )
        for name, part in self.tensors().items():
            dense(f"NVFP4Tensor's {name}", part, why="take the tensors that quantize gave.")
        rows, cols = padded_size(self.shape, self.config)
        expected = (rows, cols // 2), (rows, cols // BLOCK)
        found = tuple(self.codes.shape), tuple(self.block_scales.shape)
        if found != expected:
            raise ValueError(
                f"NVFP4Tensor of shape {self.shape} with blocks {self.config.block} has codes and "
                f"block scales of shapes {expected[0]} and {expected[1]}, got {found[0]} and "
                f"{found[1]}. Scales are stored linear, one for {BLOCK} columns of each row: "
                f"undo a swizzle first (scale_layout.unswizzle)."
            )
        types = self.codes.dtype, self.block_scales.dtype, self.amax.dtype
        if types != (torch.uint8, torch.float8_e4m3fn, torch.float32):
            raise ValueError(
                f"NVFP4Tensor has codes of uint8, block scales of float8_e4m3fn and an amax of "
                f"float32, got {', '.join(map(str, types))}: was it cast on the way? Take the "
                f"original bits."
            )
        check_amax(self.amax, math.prod(self.shape[:-1]), self.config)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device

    @property
    def bytes(self) -> int:
        """The bytes of codes, block scales and amax: 4.5 bits a value, and 4 bytes an amax."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is to be saved beside ``config`` and ``shape``, by name."""
        return {"codes": self.codes, "block_scales": self.block_scales, "amax": self.amax}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], *, config: QuantizeConfig, shape: tuple[int, ...]
    ) -> "NVFP4Tensor":
        """The inverse of ``tensors``; block scales may come as bytes. Raises ``ValueError``."""
        names = ("codes", "block_scales", "amax")
        if not isinstance(tensors, Mapping) or not set(names) <= set(tensors):
            raise ValueError(
                f"NVFP4Tensor.from_tensors takes {', '.join(names)} by name, got {shown(tensors)}: "
                f"all three make a matrix. Pass what tensors() gave."
            )
        codes, scales, amax = (tensors[name] for name in names)
        dense("block_scales", scales, why="take the tensors that quantize gave.")
        as_bytes = scales.dtype == torch.uint8
        return cls(
            codes=codes,
            block_scales=scales.view(torch.float8_e4m3fn) if as_bytes else scales,
            amax=amax,
            config=config,
            shape=_sizes(shape),
        )

    def scale_problem(self) -> str | None:
        """Why the scales are none that quantizing finite numbers gives, or None.

        For what comes from a file. Waits for the device.
        """
        if not bool((self.amax.isfinite() & (self.amax >= 0)).all()):
            bad = self.amax[~(self.amax.isfinite() & (self.amax >= 0))].flatten()[0].item()
            return f"its tensor scale stands for a largest magnitude of {bad:g}"
        scales = self.block_scales.view(torch.uint8)
        for what, found in (("NaN", scales & 0x7F == 0x7F), ("negative", scales > 0x80)):
            if count := int(found.sum()):
                return f"{count} of its {scales.numel()} block scales are {what}"
        scaled = bool((scales & 0x7F).any())
        if scaled and not bool(self.amax.any()):
            return "its tensor scale is 0, and its block scales are not"
        if not scaled and bool((self.codes & 0x77).any()):
            return "all of its block scales are 0, and its codes are not"
        return None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "NVFP4Tensor":
        """The same bits on another device."""
        device = place("NVFP4Tensor.to", device)
        codes, scales, amax = (
            tensor.to(device, non_blocking=non_blocking) for tensor in self.tensors().values()
        )
        return replace(self, codes=codes, block_scales=scales, amax=amax)

    def dequantize(
        self,
        dtype: torch.dtype = torch.float32,
        *,
        out: Float[Tensor, "..."] | None = None,
        backend: str = "auto",
    ) -> Float[Tensor, "..."]:
        """The values, of shape ``shape``, computed in float32 and rounded once.

        Args:
            dtype: a float type; that of ``out`` counts where one is given.
            out: contiguous memory that receives the values and is returned.
            backend: a name of the table ``DEQUANTIZE``, or "auto".

        Raises:
            ValueError: ``out`` does not fit, or a type that holds whole numbers.
        """
        float_type("dequantize's dtype", dtype, why="values are no whole numbers.")
        text("dequantize's backend", backend, why="it names what decodes. Use 'auto'.")
        if out is not None:
            dense("dequantize's out", out, why="values are written into it.")
        rows, cols = math.prod(self.shape[:-1]), self.shape[-1]
        unpadded = padded_size(self.shape, self.config) == (rows, cols)
        if out is not None and (out.shape != self.shape or not out.is_contiguous()):
            raise ValueError(
                f"dequantize(out=...) writes values of shape {self.shape} into contiguous "
                f"memory, got shape {tuple(out.shape)} with strides {out.stride()}. Without out= "
                f"you get a tensor."
            )
        dtype = dtype if out is None else out.dtype
        if not dtype.is_floating_point:
            raise ValueError(
                f"dequantize to {dtype}: values are no whole numbers. Choose a float type."
            )
        packed = (self.codes, self.block_scales, self.amax, config_text(self.config))
        if out is not None and unpadded:
            torch.ops.longlive.nvfp4_dequantize_into(out.view(rows, cols), *packed, backend)
            return out
        matrix = torch.ops.longlive.nvfp4_dequantize(*packed, dtype, backend)
        values = matrix if unpadded else matrix[:rows, :cols]
        values = values.reshape(self.shape)
        return values if out is None else out.copy_(values)

    def transpose(self) -> "NVFP4Tensor":
        """The transposed matrix, bit for bit the same values.

        Needs 16 x 16 blocks, one amax and two dimensions; raises ``ValueError`` otherwise.
        """
        if self.config.block != (BLOCK, BLOCK) or self.amax.numel() != 1 or len(self.shape) != 2:
            raise ValueError(
                f"NVFP4Tensor.transpose needs a matrix in blocks of ({BLOCK}, {BLOCK}) with one "
                f"amax, got shape {self.shape}, blocks {self.config.block} and "
                f"{self.amax.numel()} amax: a scale must cover as many rows as columns. "
                f"Quantize the transposed matrix instead."
            )
        codes = torch.stack((self.codes & 0xF, self.codes >> 4), dim=-1).flatten(-2).t()
        tiles = self.block_scales.view(torch.uint8)[::BLOCK].t()
        return replace(
            self,
            codes=codes[:, ::2] | codes[:, 1::2] << 4,
            block_scales=tiles.repeat_interleave(BLOCK, 0).view(torch.float8_e4m3fn),
            shape=(self.shape[1], self.shape[0]),
        )


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ValueError(f"NVFP4Tensor.shape is a tuple of sizes, got {shown(shape)}: say (4, 32).")
    why = "it is a size of what was quantized."
    return tuple(whole("a size of NVFP4Tensor", size, at_least=0, why=why) for size in shape)


def padded_size(shape: tuple[int, ...], config: QuantizeConfig) -> tuple[int, int]:
    """Rows and columns of a tensor of this shape, rounded up to whole blocks."""
    height, width = config.block
    rows, cols = math.prod(shape[:-1]), shape[-1]
    return -(-rows // height) * height, -(-cols // width) * width


def check_amax(amax: Float32[Tensor, "*groups"], rows: int, config: QuantizeConfig) -> None:
    """Raise ``ValueError`` unless the groups that have an amax each are equal and of whole blocks.

    ``rows`` are those of what is quantized, without padding: padding belongs to the last group
    alone, so several groups leave no room for it.
    """
    groups, height = amax.numel(), config.block[0]
    if amax.ndim > 1 or (rows and groups == 0) or (groups > 1 and rows % (groups * height)):
        raise ValueError(
            f"nvfp4 got amax of shape {tuple(amax.shape)} for {rows} rows in blocks of {height}: "
            f"give one for the matrix, or one for each of several equal groups of rows, cut "
            f"between blocks (of a multiple of {height} rows each)."
        )
