"""NVFP4Linear: a frozen linear whose weight stays packed in four bits.

Its tensors are integers, the bits of the numbers that they stand for, so that nothing that casts a
model (``to(torch.bfloat16)``, mixed-precision wrappers, a saver) can touch them. What decides their
meaning, rule, bound and block, lies beside them and travels with the state dict.

On a GPU before Blackwell four bits save memory, not time. The paths that compute in four bits
(``cublas``, ``transformer_engine``) need Blackwell and have not been run on it yet: they follow the
vendors' documents, and receipts say when they are taken.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from longlive_core.backends import Receipt, Request
from longlive_core.checks import instance, switch, text, whole
from longlive_core.frozen_linear import FrozenLinear, FrozenWeight
from longlive_core.module_swap import features
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, ScaleRule, check_format
from longlive_core.nvfp4.matmul import (
    MATMUL,
    WEIGHT_MATMUL,
    MatmulRequest,
    WeightProduct,
    matmul,
    prepare_weight,
)
from longlive_core.nvfp4.quantize import (
    DEQUANTIZE,
    QUANTIZE,
    dequantize,
    quantize,
    quantize_weight,
    tensor_amax,
)
from longlive_core.nvfp4.stored_weight import read_format, stored_problem, written_format
from longlive_core.nvfp4.tensor import NVFP4Tensor, padded_size
from longlive_core.tensor_checks import float_type, place
from longlive_core.training_linear import ReduceAmax as ReduceAmax

_WHICH = "It names what multiplies; 'auto' takes the fastest that can run."
_SIZE = "It is how many numbers a row of the input, or of the output, has."

BEST = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
"""The rule with the smallest error in blocks of 1 x 16."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """How a frozen linear is packed and runs.

    Attributes:
        weight: how the weight is quantized.
        activation: how inputs are quantized (W4A4); None leaves them in their type (W4A16).
        backend: a row of ``MATMUL`` (W4A4) or of ``WEIGHT_MATMUL`` (W4A16), or "auto".
        strict: refuse to emulate.
    """

    weight: QuantizeConfig = BEST
    activation: QuantizeConfig | None = None
    backend: str = "auto"
    strict: bool = False

    def __post_init__(self) -> None:
        check_format("LinearConfig.weight", self.weight)
        if self.activation is not None:
            check_format("LinearConfig.activation", self.activation)
        text("LinearConfig.backend", self.backend, why=_WHICH)
        switch("LinearConfig.strict", self.strict, why="True refuses to emulate.")
        for name, config in (("weight", self.weight), ("activation", self.activation)):
            if config is not None and config.rounding != "nearest":
                raise ValueError(
                    f"LinearConfig({name}.rounding={config.rounding!r}): a frozen linear rounds to "
                    f"nearest, because random rounding is for gradients. Use 'nearest'."
                )
        if self.activation is not None and self.activation.block != (1, BLOCK):
            raise ValueError(
                f"LinearConfig(activation.block={self.activation.block}): tokens must not share a "
                f"scale, or a token's result would depend on its neighbors. Use (1, {BLOCK})."
            )


class NVFP4Weight(FrozenWeight, NVFP4Tensor):
    """A layer's packed weight, which answers what is asked of a weight."""

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The values, rounded once to ``dtype``."""
        return dequantize(self, dtype)

    def to(self, target: torch.dtype | torch.device | str, *, non_blocking: bool = False) -> Any:
        """The values in another type, or the same bits on another device."""
        if isinstance(target, torch.dtype):
            return self.decoded(target)
        return NVFP4Tensor.to(self, target, non_blocking=non_blocking)


class NVFP4Linear(FrozenLinear):
    """``y = x W^T + b`` with W packed in NVFP4, and x as it is (W4A16) or quantized too (W4A4).

    The product is summed in float32. Under W4A4 it is rounded to the type of ``x`` before the bias
    is added, as the original has it. ``x`` gets the gradient of the product with the decoded
    weight, in both cases (straight through the rounding of ``x``); the weight is frozen, the bias
    is a parameter. ``reduce_amax`` makes one amax of those of several ranks that hold parts of the
    same activation. A new layer holds no weight: use ``from_linear`` or ``from_packed``, or load
    one; a loaded weight brings its own rule.
    """

    weight_codes: Tensor  # uint8 [rows, columns / 2], padded to whole blocks
    weight_scales: Tensor  # uint8 [rows, columns / 16]: E4M3 bytes
    weight_amax: Tensor  # int32 []: the bits of a float32
    weight_format: Tensor  # int32 [7]: version, rule, bound, block rows, block columns, out, in

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        config: LinearConfig | None = None,
        reduce_amax: ReduceAmax | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            whole("in_features", in_features, at_least=0, why=_SIZE),
            whole("out_features", out_features, at_least=0, why=_SIZE),
            dtype,
        )
        if dtype is not None:
            float_type("NVFP4Linear's dtype", dtype, why="it is the bias's.")
        device = None if device is None else place("NVFP4Linear's device", device)
        self.config = config = LinearConfig() if config is None else config
        instance("NVFP4Linear's config", config, LinearConfig, why="it says what is packed.")
        self.reduce_amax = reduce_amax
        self._prepared: WeightProduct | None = None
        rows, cols = padded_size((out_features, in_features), config.weight)
        shapes = {
            "weight_codes": ((rows, cols // 2), torch.uint8),
            "weight_scales": ((rows, cols // BLOCK), torch.uint8),
            "weight_amax": ((), torch.int32),
            "weight_format": ((7,), torch.int32),
        }
        for name, (shape, kind) in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=kind, device=device))
        empty = torch.empty(out_features, dtype=dtype, device=device) if bias else None
        self.bias = None if empty is None else nn.Parameter(empty)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        config: LinearConfig | None = None,
        *,
        reduce_amax: ReduceAmax | None = None,
        device: torch.device | str | None = None,
    ) -> "NVFP4Linear":
        """The layer with this linear's weight quantized; it shares the linear's bias.

        With ``device`` both are made there, and ``linear`` stays where it is.
        """
        config = LinearConfig() if config is None else config
        instance("NVFP4Linear.from_linear's linear", linear, nn.Linear, why="its weight is packed.")
        packed = quantize_weight(linear.weight.detach(), config.weight, device=device)
        bias = linear.bias
        if bias is not None and bias.device != packed.device:
            bias = nn.Parameter(bias.detach().to(packed.device), requires_grad=bias.requires_grad)
        layer = cls.from_packed(packed, bias, config, reduce_amax=reduce_amax)
        layer.working_dtype = linear.weight.dtype
        return layer

    @classmethod
    def from_packed(
        cls,
        weight: NVFP4Tensor,
        bias: nn.Parameter | None = None,
        config: LinearConfig | None = None,
        *,
        reduce_amax: ReduceAmax | None = None,
    ) -> "NVFP4Linear":
        """The layer with this packed weight [out, in]; its rule takes the place of ``config``'s."""
        why = "it is a weight that quantize packed. A plain linear goes to from_linear."
        instance("NVFP4Linear.from_packed's weight", weight, NVFP4Tensor, why=why)
        if len(weight.shape) != 2 or weight.amax.numel() != 1:
            raise ValueError(
                f"NVFP4Linear holds a matrix [out, in] with one amax, got shape {weight.shape} and "
                f"{weight.amax.numel()} amax. Quantize the weight as one matrix."
            )
        config = replace(LinearConfig() if config is None else config, weight=weight.config)
        rows, cols = weight.shape
        layer = cls(
            cols,
            rows,
            bias=False,
            config=config,
            reduce_amax=reduce_amax,
            device="meta",
            dtype=torch.bfloat16 if bias is None else bias.dtype,
        )
        layer.weight_codes = weight.codes
        layer.weight_scales = weight.block_scales.view(torch.uint8)
        layer.weight_amax = weight.amax.detach().reshape(()).clone().view(torch.int32)
        layer.weight_format = written_format(weight.config, (rows, cols)).to(weight.device)
        layer.bias = bias
        return layer

    @property
    def weight(self) -> NVFP4Weight:
        """The packed weight, a view of the buffers."""
        weight = NVFP4Weight(**vars(self._packed()))
        weight.dtype = self.working_dtype
        return weight

    def _packed(self) -> NVFP4Tensor:
        return NVFP4Tensor(
            codes=self.weight_codes,
            block_scales=self.weight_scales.view(torch.float8_e4m3fn),
            amax=self.weight_amax.view(torch.float32),
            config=self.config.weight,
            shape=(self.out_features, self.in_features),
        )

    def stored_form(self) -> dict[str, Any]:
        """``LinearConfig`` as plain values, with the format's name."""
        activation = self.config.activation
        return {
            "format": "nvfp4",
            "weight": self.config.weight.to_dict(),
            "activation": None if activation is None else activation.to_dict(),
            "backend": self.config.backend,
            "strict": self.config.strict,
        }

    def to_linear(self, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
        """A plain linear with the decoded weight."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(dequantize(self._packed(), dtype))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(dtype))
        return linear.train(self.training)

    def prepare(self, dtype: torch.dtype = torch.bfloat16) -> None:
        """Repack the weight once, for products without gradient, where a W4A16 backend repacks.

        Costs the memory of the weight again. Moving or loading the layer undoes it.
        """
        if self.config.activation is None:
            backend = self.config.backend
            self._prepared = prepare_weight(self._packed(), dtype=dtype, backend=backend)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        features("NVFP4Linear", x, self.in_features)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            return self._product(x.to(dtype), bias)

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        config, weight = self.config, self._packed()
        if config.activation is not None:
            parts = weight.codes, weight.block_scales, weight.amax
            y = _QuantizedProduct.apply(x, *parts, weight, config, self.reduce_amax)
            return y if bias is None else y + bias
        if self._prepared is not None and not (torch.is_grad_enabled() and x.requires_grad):
            out = self._prepared.multiply(x.reshape(-1, self.in_features), bias)
            return out.reshape(*x.shape[:-1], self.out_features)
        return matmul(x, weight, bias=bias, backend=config.backend, strict=config.strict)

    def receipts(self) -> tuple[Receipt, ...]:
        """What runs where the weight is, in the bias's type (bfloat16 without one)."""
        dtype = torch.bfloat16 if self.bias is None else self.bias.dtype
        shape = self.out_features, self.in_features
        return linear_receipts(shape, self.config, device=self.weight_codes.device, dtype=dtype)

    def extra_repr(self) -> str:
        kind = "W4A16" if self.config.activation is None else "W4A4"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {kind}, {self.config.weight.rule.value}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "NVFP4Linear":
        self._prepared = None
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self._prepared = None
        problems = rest[-1]
        for name in ("weight_codes", "weight_scales", "weight_amax", "weight_format"):
            given, own = state_dict.get(prefix + name), self.get_buffer(name)
            if given is not None and own is not None and given.dtype != own.dtype:
                problems.append(
                    f"{prefix + name} is {given.dtype} where {own.dtype} holds the bits of a "
                    f"packed weight: the checkpoint was cast when it was saved. Save it as it is."
                )
                return
        stored = state_dict.get(prefix + "weight_format")
        if stored is not None and not stored.is_meta:
            try:
                weight, shape = read_format(stored)
            except ValueError as error:
                problems.append(f"{prefix}weight_format: {error}")
                return
            if shape != (self.out_features, self.in_features):
                problems.append(
                    f"{prefix}weight_format is of a weight {shape}, and the layer's is "
                    f"{(self.out_features, self.in_features)}."
                )
                return
            self.config = replace(self.config, weight=weight)
            if (problem := stored_problem(state_dict, prefix, weight, shape)) is not None:
                problems.append(problem)
                return
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _QuantizedProduct(torch.autograd.Function):
    """x W^T with x quantized on the way; dx = g W."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        amax: Tensor,
        weight: NVFP4Tensor,
        config: LinearConfig,
        reduce_amax: ReduceAmax | None,
    ) -> Tensor:
        ctx.save_for_backward(codes, scales, amax)
        ctx.meaning = weight.config, weight.shape
        assert config.activation is not None
        q = quantize_shared(x, config.activation, reduce_amax)
        return matmul(q, weight, dtype=x.dtype, backend=config.backend, strict=config.strict)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales, amax = ctx.saved_tensors
        config, shape = ctx.meaning
        weight = NVFP4Tensor(
            codes=codes, block_scales=scales, amax=amax, config=config, shape=shape
        )
        with torch.autocast(grad.device.type, enabled=False):
            return grad @ dequantize(weight, grad.dtype), *[None] * 6


def quantize_shared(
    x: Float[Tensor, "*batch cols"], config: QuantizeConfig, reduce_amax: ReduceAmax | None
) -> NVFP4Tensor:
    """``quantize`` with the amax of all ranks that hold a part of the matrix."""
    amax = tensor_amax(x)
    return quantize(x, config, amax=amax if reduce_amax is None else reduce_amax(amax))


def linear_receipts(
    shape: tuple[int, int], config: LinearConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[Receipt, ...]:
    """The choices that a product with a weight [out, in] leads to, for inputs of ``dtype``.

    Needs no weight: it says before one is read what would run. Raises ``BackendUnavailable`` where
    nothing would.
    """
    instance("linear_receipts' config", config, LinearConfig, why="it says what is packed.")
    rows, cols = padded_size(shape, config.weight)
    request = MatmulRequest(device=device, dtype=dtype, inner=cols, outputs=rows)
    plain = Request(device=device, dtype=dtype)
    if config.activation is None:
        product = WEIGHT_MATMUL.receipt(request, config.backend, strict=config.strict)
        return product, DEQUANTIZE.receipt(plain)
    return QUANTIZE.receipt(plain), MATMUL.receipt(request, config.backend, strict=config.strict)
