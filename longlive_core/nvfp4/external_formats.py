"""Packed matrices of other libraries, read and written: their names, their scales, their orders.

All store the same codes, two a byte, low nibble first, and the same E4M3 block scales. They differ
in what stands beside them (A is the largest magnitude, R the rule's full scale, 6 * 448 mostly):

    convention          tensors                                     tensor scale      block scales
    longlive            quantized_weight_{values, scale_factors,    A                 swizzled
                        amax, metadata}
    transformer_engine  rowwise_data, rowwise_scale_inv,            A                 either, padded
                        amax_rowwise
    torchao             qdata, scale, per_tensor_scale              A / R, or none    either
    modelopt            weight, weight_scale, weight_scale_2        A / R             linear
    compressed_tensors  weight_packed, weight_scale,                R / A             linear
                        weight_global_scale

(longlive is the original LongLive-2.0, whose quantizer is fouroversix.) Where A is stored, the bits
mean nothing without the rule, and no convention stores the rule: the caller says it. Where A / R is
stored, values can be read without it; then ``AMAX_6`` stands in the result's config.

Some write a matrix of zeros with a tensor scale of 0 beside scales and codes that mean nothing: it
is read as zeros. Any other scale that is 0, negative, infinite or NaN is refused.

Swizzled and linear scales of whole tiles have the same size, so the order is never guessed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_core.checks import shown
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig
from longlive_core.nvfp4.scale_layout import swizzle, swizzled_size, unswizzle
from longlive_core.nvfp4.scale_rules import decode_scale, divide, encode_scale
from longlive_core.nvfp4.tensor import NVFP4Tensor, padded_size

Tensors = Mapping[str, Tensor]

_ACTIVATION_SCALES = ("act_per_tensor_scale", "input_scale", "input_global_scale")


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How another library names a packed matrix's tensors, and how it orders block scales.

    Attributes:
        names: the tensors that it always has, codes first, then block scales.
        also: tensors that it may have as well; activations' scales and transposed copies are
            ignored, for they are not the matrix.
        swizzled: the order of the block scales; None where it may be either.
        needs_rule: whether values cannot be read without knowing the rule.
        amax: from its tensors, for a matrix quantized under a config.
        scale: the tensors it has beside codes and block scales.
        lay_out: linear block scales as it stores them, swizzled or not.
    """

    name: str
    names: tuple[str, ...]
    also: tuple[str, ...] = ()
    swizzled: bool | None
    needs_rule: bool
    amax: Callable[[Tensors, QuantizeConfig], Tensor]
    scale: Callable[[NVFP4Tensor], dict[str, Tensor]]
    lay_out: Callable[[Tensor, bool], Tensor]

    def read(
        self,
        tensors: Tensors,
        *,
        config: QuantizeConfig | None = None,
        shape: tuple[int, int] | None = None,
        swizzled: bool | None = None,
    ) -> NVFP4Tensor:
        """The matrix that ``tensors``, by the names of this convention, hold.

        ``config`` says by which rule it was quantized, ``shape`` its size where it was padded,
        ``swizzled`` the order of block scales where the convention leaves it open. Raises
        ValueError for whatever is missing, does not fit, or would have to be guessed.
        """
        self._check_names(tensors)
        if config is None:
            if self.needs_rule:
                raise ValueError(
                    f"a matrix in the {self.name} convention does not say by which rule it was "
                    f"quantized, and its scale cannot be read without: pass "
                    f"config=QuantizeConfig(rule=..., bound=..., block=...)."
                )
            config = QuantizeConfig()
        codes, scales = (_as_bytes(tensors[name], name) for name in self.names[:2])
        size = _logical_shape(tensors, codes, shape)
        rows, cols = padded_size(size, config)
        q = NVFP4Tensor(
            codes=_cropped(codes, rows, cols // 2, self.names[0]),
            block_scales=self._linear(scales, rows, cols // BLOCK, swizzled),
            amax=self.amax(tensors, config),
            config=config,
            shape=size,
        )
        if _is_dead(q):
            return _zeros_like(q)
        if (problem := q.scale_problem() or _activation_problem(tensors)) is not None:
            raise ValueError(
                f"a matrix in the {self.name} convention cannot be read: {problem}. The file is "
                f"damaged, or was made of weights that held no numbers. Take the original file."
            )
        return q

    def write(self, q: NVFP4Tensor, *, swizzled: bool | None = None) -> dict[str, Tensor]:
        """``q`` as this convention's tensors. Raises ValueError for what it cannot represent."""
        if q.amax.numel() != 1 or len(q.shape) != 2:
            raise ValueError(
                f"the {self.name} convention holds matrices with one scale, got shape {q.shape} "
                f"with {q.amax.numel()} amax. Quantize the matrix as one."
            )
        if tuple(q.codes.shape) != (q.shape[0], q.shape[1] // 2):
            raise ValueError(
                f"the {self.name} convention holds whole blocks, got a matrix of shape {q.shape} "
                f"padded to {(q.codes.shape[0], q.codes.shape[1] * 2)}. Keep it in bfloat16."
            )
        if self.swizzled is None and swizzled is None:
            raise ValueError(f"the {self.name} convention has two orders of scales: say swizzled=.")
        in_tiles = swizzled if self.swizzled is None else self.swizzled
        scales = self.lay_out(q.block_scales, bool(in_tiles))
        return {self.names[0]: q.codes, self.names[1]: scales, **self.scale(q)}

    def _check_names(self, tensors: Tensors) -> None:
        missing = [name for name in self.names if name not in tensors]
        strange = [name for name in tensors if name not in (*self.names, *self.also)]
        if missing or strange:
            raise ValueError(
                f"a matrix in the {self.name} convention has {', '.join(self.names)}; missing: "
                f"{', '.join(missing) or 'none'}, unknown: {', '.join(strange) or 'none'}. "
                f"``identify`` tells conventions by their names."
            )

    def _linear(self, scales: Tensor, rows: int, cols: int, swizzled: bool | None) -> Tensor:
        if self.swizzled is not None and swizzled not in (None, self.swizzled):
            order = "swizzled" if self.swizzled else "linear"
            raise ValueError(f"block scales of the {self.name} convention are always {order}.")
        in_tiles = self.swizzled if self.swizzled is not None else swizzled
        if in_tiles is None:
            raise ValueError(
                f"block scales of the {self.name} convention may be swizzled or linear, and "
                f"{rows} rows of {cols} look the same in both orders: pass swizzled=True or False."
            )
        if in_tiles:
            return unswizzle(scales.view(torch.float8_e4m3fn), rows, cols)
        return _cropped(scales, rows, cols, self.names[1]).view(torch.float8_e4m3fn)


def identify(names: Iterable[str]) -> Convention:
    """The one convention whose tensors are all among ``names`` (without a module's prefix).

    Raises ValueError if none is, or several are.
    """
    found = set(names)
    fits = [one for one in CONVENTIONS.values() if found >= set(one.names)]
    if len(fits) == 1:
        return fits[0]
    what = " and ".join(one.name for one in fits) if fits else "no convention that is known here"
    raise ValueError(
        f"tensors named {', '.join(sorted(found))} fit {what}: "
        f"{'which one is meant cannot be told' if fits else 'they hold no packed matrix'}. "
        f"Conventions: {', '.join(CONVENTIONS)}."
    )


def _is_dead(q: NVFP4Tensor) -> bool:
    """Whether it was packed from zeros: a tensor scale of 0, and nothing that contradicts it."""
    if bool(q.amax.any()):
        return False
    scales = q.block_scales.view(torch.uint8) & 0x7F
    return bool(((scales == 0) | (scales == 0x7F)).all()) or not bool((q.codes & 0x77).any())


def _zeros_like(q: NVFP4Tensor) -> NVFP4Tensor:
    scales = torch.zeros_like(q.block_scales.view(torch.uint8)).view(torch.float8_e4m3fn)
    return replace(q, codes=torch.zeros_like(q.codes), block_scales=scales)


def _activation_problem(tensors: Tensors) -> str | None:
    """Scales of activations are not used; one that is none says that the file is damaged."""
    for name in _ACTIVATION_SCALES:
        scale = tensors.get(name)
        if scale is not None and not bool((scale.isfinite() & (scale > 0)).all()):
            return f"its {name} is {shown(scale.flatten().tolist())}, and a scale is above 0"
    return None


def _stored_amax(name: str) -> Callable[[Tensors, QuantizeConfig], Tensor]:
    def amax(tensors: Tensors, config: QuantizeConfig) -> Tensor:
        return _scalar(tensors[name], name)

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


def _amax_torchao(tensors: Tensors, config: QuantizeConfig) -> Tensor:
    name = "per_tensor_scale"
    if name in tensors:
        stored = _scalar(tensors[name], name)
    else:  # a matrix with one level of scales
        stored = torch.ones((), dtype=torch.float32, device=tensors["qdata"].device)
    return _amax_of(stored, stored * config.full_scale, decode_scale, config)


def _amax_modelopt(tensors: Tensors, config: QuantizeConfig) -> Tensor:
    stored = _scalar(tensors["weight_scale_2"], "weight_scale_2")
    return _amax_of(stored, stored * config.full_scale, decode_scale, config)


def _amax_compressed(tensors: Tensors, config: QuantizeConfig) -> Tensor:
    stored = _scalar(tensors["weight_global_scale"], "weight_global_scale")
    return _amax_of(stored, divide(config.full_scale, stored), encode_scale, config)


def _longlive_scale(q: NVFP4Tensor) -> dict[str, Tensor]:
    rows, cols = q.shape
    padded = (-(-rows // 128) * 128, -(-cols // 64) * 64)
    metadata = torch.tensor((rows, cols, *padded), dtype=torch.int32, device=q.device)
    return {
        "quantized_weight_amax": q.amax.reshape(1),
        "quantized_weight_metadata": metadata,
    }


def _plain(scales: Tensor, swizzled: bool) -> Tensor:
    return swizzle(scales) if swizzled else scales


def _in_whole_tiles(scales: Tensor, swizzled: bool) -> Tensor:
    """Transformer Engine pads either order, and shapes both as the padded matrix."""
    rows, cols = scales.shape
    height, width = swizzled_size(rows, cols)
    if swizzled:
        return swizzle(scales).view(height, width)
    padded = F.pad(scales.view(torch.uint8), (0, width - cols, 0, height - rows))
    return padded.view(torch.float8_e4m3fn)


def _in_tile_rows(scales: Tensor, swizzled: bool) -> Tensor:
    """TorchAO shapes swizzled scales 32 by 16 a tile."""
    height, width = swizzled_size(*scales.shape)
    return swizzle(scales).view(height // 4, width * 4) if swizzled else scales


def _cropped(matrix: Tensor, rows: int, cols: int, name: str) -> Tensor:
    """The part that is not padding; padding fills whole tiles of 128 rows and 64 columns."""
    height, width = matrix.shape if matrix.ndim == 2 else (0, 0)
    if not (rows <= height <= rows + 127 and cols <= width <= -(-cols // 32) * 32):
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}, which does not hold {rows} rows of {cols}. "
            f"Is it of another matrix, or of another convention?"
        )
    return matrix[:rows, :cols].contiguous()


def _logical_shape(
    tensors: Tensors, codes: Tensor, shape: tuple[int, int] | None
) -> tuple[int, int]:
    if shape is None and "quantized_weight_metadata" in tensors:
        rows, cols = tensors["quantized_weight_metadata"].tolist()[:2]
        return rows, cols
    if codes.ndim != 2:
        raise ValueError(f"packed codes are a matrix of bytes, got shape {tuple(codes.shape)}.")
    return (codes.shape[0], codes.shape[1] * 2) if shape is None else shape


def _as_bytes(tensor: Tensor, name: str) -> Tensor:
    if tensor.element_size() != 1:
        raise ValueError(
            f"{name} holds bytes (codes or E4M3 scales), got {tensor.dtype}: the checkpoint was "
            f"cast when it was saved. Take the original file."
        )
    return tensor.view(torch.uint8)


def _scalar(tensor: Tensor, name: str) -> Tensor:
    if tensor.numel() != 1 or tensor.dtype != torch.float32:
        raise ValueError(
            f"{name} is one float32 number for the matrix, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}: scales of rows or experts are not read here."
        )
    return tensor.reshape(())


CONVENTIONS = {
    one.name: one
    for one in (
        Convention(
            name="longlive",
            names=(
                "quantized_weight_values",
                "quantized_weight_scale_factors",
                "quantized_weight_amax",
                "quantized_weight_metadata",
            ),
            also=tuple(
                f"quantized_weight_transposed_{part}"
                for part in ("values", "scale_factors", "amax", "metadata")
            ),
            swizzled=True,
            needs_rule=True,
            amax=_stored_amax("quantized_weight_amax"),
            scale=_longlive_scale,
            lay_out=_plain,
        ),
        Convention(
            name="transformer_engine",
            names=("rowwise_data", "rowwise_scale_inv", "amax_rowwise"),
            also=("columnwise_data", "columnwise_scale_inv", "amax_columnwise"),
            swizzled=None,
            needs_rule=True,
            amax=_stored_amax("amax_rowwise"),
            scale=lambda q: {"amax_rowwise": q.amax.reshape(1)},
            lay_out=_in_whole_tiles,
        ),
        Convention(
            name="torchao",
            names=("qdata", "scale"),
            also=("per_tensor_scale", "act_per_tensor_scale"),
            swizzled=None,
            needs_rule=False,
            amax=_amax_torchao,
            scale=lambda q: {"per_tensor_scale": decode_scale(q.amax.reshape(()), q.config)},
            lay_out=_in_tile_rows,
        ),
        Convention(
            name="modelopt",
            names=("weight", "weight_scale", "weight_scale_2"),
            also=("input_scale",),
            swizzled=False,
            needs_rule=False,
            amax=_amax_modelopt,
            scale=lambda q: {"weight_scale_2": decode_scale(q.amax.reshape(()), q.config)},
            lay_out=_plain,
        ),
        Convention(
            name="compressed_tensors",
            names=("weight_packed", "weight_scale", "weight_global_scale"),
            also=("input_global_scale",),
            swizzled=False,
            needs_rule=False,
            amax=_amax_compressed,
            scale=lambda q: {"weight_global_scale": encode_scale(q.amax.reshape(1), q.config)},
            lay_out=_plain,
        ),
    )
}
"""Every convention, by name."""
