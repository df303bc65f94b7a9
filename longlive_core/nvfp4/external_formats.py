"""Packed matrices of other libraries, read and written: their names, their scales, their orders.

All store the same codes, two a byte, and the same E4M3 block scales. The first value of a byte is
in its low nibble, but in ComfyUI's files in the high one; GGUF has values 0 and 8, 1 and 9, ... of
a block in a byte. They differ in what stands beside them (A is the largest magnitude, R the rule's
full scale, 6 * 448 mostly):

    convention          tensors                                     tensor scale      block scales
    longlive            quantized_weight_{values, scale_factors,    A                 swizzled
                        amax, metadata}
    transformer_engine  rowwise_data, rowwise_scale_inv,            A                 either, padded
                        amax_rowwise
    torchao             qdata, scale, per_tensor_scale              A / R, or none    either
    modelopt            weight, weight_scale, weight_scale_2        A / R             linear
    compressed_tensors  weight_packed, weight_scale,                R / A             linear
                        weight_global_scale
    comfyui             weight, weight_scale, weight_scale_2,       A / R             swizzled
                        comfy_quant
    mlx                 weight (uint32), scales, global_scale       2688 A / R, none  linear
    gguf                blocks, scale                               A / R, or none    in blocks

(longlive is the original LongLive-2.0, whose quantizer is fouroversix.) Where A is stored, the bits
mean nothing without the rule, and no convention stores the rule: the caller says it. Where A / R is
stored, values can be read without it; then ``AMAX_6`` stands in the result's config.

Some write a matrix of zeros with a tensor scale of 0 beside scales and codes that mean nothing: it
is read as zeros. Any other scale that is 0, negative, infinite or NaN is refused.

Swizzled and linear scales of whole tiles have the same size, so the order is never guessed.
ComfyUI's and ModelOpt's names are the same but for ``comfy_quant``; without it ModelOpt is meant.

A matrix that was made of several (queries, keys and values in one) may have a tensor scale for each
of them: ``groups`` says of how many, and no scale is taken for that of another.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longlive_core.checks import instance, shown, whole
from longlive_core.nvfp4.external_codes import (
    CODES,
    SCALES,
    Tensors,
    activation_problem,
    amax_compressed,
    amax_mlx,
    amax_of_decode_scale,
    as_bytes,
    cropped,
    in_tile_rows,
    in_whole_tiles,
    is_dead,
    logical_shape,
    longlive_scale,
    mlx_scale,
    pack_comfyui,
    pack_gguf,
    pack_mlx,
    plain,
    require_groups,
    same,
    stored_amax,
    unpack_comfyui,
    unpack_gguf,
    unpack_mlx,
    zeros_like,
)
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, check_format
from longlive_core.nvfp4.scale_layout import unswizzle
from longlive_core.nvfp4.scale_rules import decode_scale, encode_scale
from longlive_core.nvfp4.tensor import NVFP4Tensor, padded_size
from longlive_core.tensor_checks import present


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
        unpack, pack: from its tensors to those with codes and block scales apart and the first
            value of a byte in its low nibble, and back.
        padded: whether codes and scales may be padded to whole tiles.
    """

    name: str
    names: tuple[str, ...]
    also: tuple[str, ...] = ()
    swizzled: bool | None
    needs_rule: bool
    amax: Callable[[Tensors, QuantizeConfig], Tensor]
    scale: Callable[[NVFP4Tensor], dict[str, Tensor]]
    lay_out: Callable[[Tensor, bool], Tensor]
    unpack: Callable[[Tensors], dict[str, Tensor]] = same
    pack: Callable[[Tensors], dict[str, Tensor]] = same
    padded: bool = True

    @property
    def _held(self) -> tuple[str, str]:
        """The names of codes and block scales once they are unpacked."""
        return (self.names[0], self.names[1]) if len(self.names) > 1 else (CODES, SCALES)

    def read(
        self,
        tensors: Tensors,
        *,
        config: QuantizeConfig | None = None,
        shape: tuple[int, int] | None = None,
        swizzled: bool | None = None,
        groups: int = 1,
    ) -> NVFP4Tensor:
        """The matrix that ``tensors``, by the names of this convention, hold.

        ``config`` says by which rule it was quantized, ``shape`` its size where it was padded,
        ``swizzled`` the order of block scales where the convention leaves it open, ``groups`` how
        many equal groups of rows may have a tensor scale each. Raises ValueError for whatever is
        missing, does not fit, or would have to be guessed.
        """
        if not isinstance(tensors, Mapping):
            raise ValueError(
                f"the {self.name} convention reads tensors by name, got {shown(tensors)}: pass "
                f"{', '.join(self.names)} in a dict."
            )
        self._check_names(tensors)
        for name, tensor in tensors.items():
            present(name, tensor, why="it is a part of a packed matrix.")
        if config is None:
            if self.needs_rule:
                raise ValueError(
                    f"a matrix in the {self.name} convention does not say by which rule it was "
                    f"quantized, and its scale cannot be read without: pass "
                    f"config=QuantizeConfig(rule=..., bound=..., block=...)."
                )
            config = QuantizeConfig()
        check_format("config", config)
        tensors = self.unpack(tensors)
        codes, scales = (as_bytes(tensors[name], name) for name in self._held)
        size = logical_shape(tensors, codes, shape)
        rows, cols = padded_size(size, config)
        amax = self.amax(tensors, config).to(codes.device)
        require_groups(amax, groups)
        q = NVFP4Tensor(
            codes=cropped(codes, rows, cols // 2, self._held[0], padded=self.padded),
            block_scales=self._linear(scales, rows, cols // BLOCK, swizzled),
            amax=amax,
            config=config,
            shape=size,
        )
        if is_dead(q):
            return zeros_like(q)
        if (problem := q.scale_problem() or activation_problem(tensors)) is not None:
            raise ValueError(
                f"a matrix in the {self.name} convention cannot be read: {problem}. The file is "
                f"damaged, or was made of weights that held no numbers. Take the original file."
            )
        return q

    def write(self, q: NVFP4Tensor, *, swizzled: bool | None = None) -> dict[str, Tensor]:
        """``q`` as this convention's tensors. Raises ValueError for what it cannot represent."""
        instance("what is written", q, NVFP4Tensor, why="it is a matrix that quantize gave.")
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
        codes, block_scales = self._held
        return self.pack({codes: q.codes, block_scales: scales, **self.scale(q)})

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
        return cropped(scales, rows, cols, self._held[1], padded=self.padded).view(
            torch.float8_e4m3fn
        )


def identify(names: Iterable[str]) -> Convention:
    """The one convention whose tensors are all among ``names`` (without a module's prefix).

    Raises ValueError if none is, or several are.
    """
    if not isinstance(names, Iterable) or isinstance(names, str):
        raise ValueError(f"identify takes names of tensors, got {shown(names)}: pass a list.")
    found = set(names)
    fits = [one for one in CONVENTIONS.values() if found >= set(one.names)]
    if len(fits) > 1:  # one may have all the names of another, and a marker
        whole = [one for one in fits if found <= {*one.names, *one.also}]
        fits = whole if len(whole) == 1 else fits
    if len(fits) == 1:
        return fits[0]
    what = " and ".join(one.name for one in fits) if fits else "no convention that is known here"
    raise ValueError(
        f"tensors named {', '.join(sorted(found))} fit {what}: "
        f"{'which one is meant cannot be told' if fits else 'they hold no packed matrix'}. "
        f"Conventions: {', '.join(CONVENTIONS)}."
    )


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
            amax=stored_amax("quantized_weight_amax"),
            scale=longlive_scale,
            lay_out=plain,
        ),
        Convention(
            name="transformer_engine",
            names=("rowwise_data", "rowwise_scale_inv", "amax_rowwise"),
            also=("columnwise_data", "columnwise_scale_inv", "amax_columnwise"),
            swizzled=None,
            needs_rule=True,
            amax=stored_amax("amax_rowwise"),
            scale=lambda q: {"amax_rowwise": q.amax.reshape(1)},
            lay_out=in_whole_tiles,
        ),
        Convention(
            name="torchao",
            names=("qdata", "scale"),
            also=("per_tensor_scale", "act_per_tensor_scale"),
            swizzled=None,
            needs_rule=False,
            amax=amax_of_decode_scale("per_tensor_scale"),
            scale=lambda q: {"per_tensor_scale": decode_scale(q.amax.reshape(()), q.config)},
            lay_out=in_tile_rows,
        ),
        Convention(
            name="modelopt",
            names=("weight", "weight_scale", "weight_scale_2"),
            also=("input_scale",),
            swizzled=False,
            needs_rule=False,
            amax=amax_of_decode_scale("weight_scale_2"),
            scale=lambda q: {"weight_scale_2": decode_scale(q.amax.reshape(()), q.config)},
            lay_out=plain,
            padded=False,
        ),
        Convention(
            name="compressed_tensors",
            names=("weight_packed", "weight_scale", "weight_global_scale"),
            also=("input_global_scale",),
            swizzled=False,
            needs_rule=False,
            amax=amax_compressed,
            scale=lambda q: {"weight_global_scale": encode_scale(q.amax.reshape(1), q.config)},
            lay_out=plain,
            padded=False,
        ),
        Convention(
            name="comfyui",
            names=("weight", "weight_scale", "weight_scale_2", "comfy_quant"),
            also=("input_scale",),
            swizzled=True,
            needs_rule=False,
            amax=amax_of_decode_scale("weight_scale_2"),
            scale=lambda q: {"weight_scale_2": decode_scale(q.amax.reshape(()), q.config)},
            lay_out=in_whole_tiles,
            unpack=unpack_comfyui,
            pack=pack_comfyui,
        ),
        Convention(
            name="mlx",
            names=("weight", "scales"),
            also=("global_scale",),
            swizzled=False,
            needs_rule=False,
            amax=amax_mlx,
            scale=mlx_scale,
            lay_out=plain,
            unpack=unpack_mlx,
            pack=pack_mlx,
            padded=False,
        ),
        Convention(
            name="gguf",
            names=("blocks",),
            also=("scale", "input_scale"),
            swizzled=False,
            needs_rule=False,
            amax=amax_of_decode_scale("scale"),
            scale=lambda q: {"scale": decode_scale(q.amax.reshape(1), q.config)},
            lay_out=plain,
            unpack=unpack_gguf,
            pack=pack_gguf,
            padded=False,
        ),
    )
}
"""Every convention, by name."""


def split_rows(q: NVFP4Tensor, parts: int) -> list[NVFP4Tensor]:
    """Equal groups of rows of a matrix that was made of several, each with its tensor scale.

    Raises ValueError if the rows do not divide, or a block covers rows of two.
    """
    instance("what is split", q, NVFP4Tensor, why="it is a matrix that quantize gave.")
    parts = whole("parts", parts, at_least=1, why="a matrix has one part or more.")
    rows = q.shape[0] // parts
    if q.shape[0] % parts or rows % q.config.block[0] or q.amax.numel() not in (1, parts):
        raise ValueError(
            f"a matrix of {q.shape[0]} rows with {q.amax.numel()} tensor scales does not divide "
            f"into {parts} parts of whole blocks: it was not made of so many. Take the model with "
            f"its layers apart."
        )
    scales = q.amax.expand(parts) if q.amax.numel() == 1 else q.amax
    return [
        replace(
            q,
            codes=q.codes[i * rows : (i + 1) * rows],
            block_scales=q.block_scales[i * rows : (i + 1) * rows],
            amax=scales[i].reshape(()),
            shape=(rows, *q.shape[1:]),
        )
        for i in range(parts)
    ]
