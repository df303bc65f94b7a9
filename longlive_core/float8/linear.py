"""Float8Linear: a frozen linear whose products run in FP8, activations rounded as they come.

Its tensors are integers, bits of the numbers that they stand for, so that nothing that casts a
model (``to(torch.bfloat16)``, mixed-precision wrappers, a saver) can touch them.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from longlive_core.backends import Receipt, Request
from longlive_core.checks import instance, known_quality, shown, switch, text, whole
from longlive_core.eight_bit.rowwise import ENCODE_ROWS, EncodedRows
from longlive_core.float8.matmul import matmul, multiple, operation_for, receipt
from longlive_core.float8.tensor import Float8Tensor, Scaling, dequantize, quantize, scale_shape
from longlive_core.frozen_linear import FrozenLinear, FrozenWeight
from longlive_core.module_swap import features
from longlive_core.tensor_checks import float_type, place


@dataclass(frozen=True, kw_only=True)
class Float8Config:
    """How a ``Float8Linear`` scales and runs.

    Attributes:
        scaling: "row" scales rows of activations and of weights (fastest); "block" scales
            activations by 1x128 and weights by 128x128 (more accurate with outlier channels).
        backend: a name of the table behind ``longlive_core.float8.matmul``, or "auto".
        strict: refuse to emulate.
        quality: the tier that "auto" may take: "high" sums in fewer bits. Not stored.
    """

    scaling: Literal["row", "block"] = "row"
    backend: str = "auto"
    strict: bool = False
    quality: str = "lossless"

    def __post_init__(self) -> None:
        if self.scaling not in ("row", "block"):
            raise ValueError(
                f"Float8Config(scaling={shown(self.scaling)}): choose 'row', which is fastest, or "
                f"'block', which is more accurate with outlier channels."
            )
        text("Float8Config.backend", self.backend, why="It names what multiplies, or 'auto'.")
        switch("Float8Config.strict", self.strict, why="True refuses to emulate.")
        known_quality("Float8Config.quality", self.quality)

    @property
    def activation(self) -> Scaling:
        """Which numbers of an activation share a scale."""
        return Scaling.ROW if self.scaling == "row" else Scaling.ROW_BLOCK

    @property
    def weight(self) -> Scaling:
        """Which numbers of a weight share a scale."""
        return Scaling.ROW if self.scaling == "row" else Scaling.SQUARE


class Float8Weight(FrozenWeight, Float8Tensor):
    """A layer's packed weight, which answers what is asked of a weight."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in]."""
        return tuple(self.codes.shape)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The values, rounded once to ``dtype``."""
        return dequantize(self, dtype)


class Float8Linear(FrozenLinear):
    """``y = x W^T + b`` with W in FP8 and x rounded to FP8 at each call (W8A8).

    The sum is one of float32, rounded once to the type of ``x`` (or of autocast). The weight is
    frozen; ``x`` gets the gradient of the product with the decoded weight, straight through the
    rounding of ``x``. A new layer holds no weight: use ``from_linear``, or load one.
    """

    weight_codes: Tensor  # uint8 [out, in]: E4M3 bytes
    weight_scales: Tensor  # int32: the bits of float32 scales

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        config: Float8Config | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        why = "It is how many numbers a row of the input, or of the output, has."
        super().__init__(
            whole("in_features", in_features, at_least=1, why=why),
            whole("out_features", out_features, at_least=1, why=why),
            dtype,
        )
        if dtype is not None:
            float_type("Float8Linear's dtype", dtype, why="it is the bias's.")
        device = None if device is None else place("Float8Linear's device", device)
        self.config = config = Float8Config() if config is None else config
        instance("Float8Linear's config", config, Float8Config, why="it says what shares a scale.")
        if (reason := why_not_convert(in_features, out_features, config)) is not None:
            raise ValueError(f"Float8Linear cannot hold this weight: {reason}. Keep an nn.Linear.")
        shape = (out_features, in_features)
        codes = torch.empty(shape, dtype=torch.uint8, device=device)
        scales = scale_shape(*shape, config.weight)
        self.register_buffer("weight_codes", codes)
        self.register_buffer("weight_scales", torch.empty(scales, dtype=torch.int32, device=device))
        empty = torch.empty(out_features, dtype=dtype, device=device) if bias else None
        self.bias = None if empty is None else nn.Parameter(empty)

    @classmethod
    def from_linear(cls, linear: nn.Linear, config: Float8Config | None = None) -> "Float8Linear":
        """The layer with this linear's weight rounded to FP8; it shares the linear's bias."""
        instance("Float8Linear.from_linear's linear", linear, nn.Linear, why="it has the weight.")
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias=False,
            config=config,
            device="meta",
            dtype=linear.weight.dtype,
        )
        q = quantize(linear.weight.detach(), layer.config.weight)
        layer.weight_codes = q.codes.view(torch.uint8)
        layer.weight_scales = q.scales.view(torch.int32)
        layer.bias = linear.bias
        return layer

    @property
    def weight(self) -> Float8Weight:
        """The packed weight, a view of the buffers."""
        weight = Float8Weight(
            codes=self.weight_codes.view(torch.float8_e4m3fn),
            scales=self.weight_scales.view(torch.float32),
            scaling=self.config.weight,
        )
        weight.dtype = self.working_dtype
        return weight

    def stored_form(self) -> dict[str, Any]:
        """``Float8Config`` as plain values, with the format's name."""
        config = self.config
        return {
            "format": "float8",
            "scaling": config.scaling,
            "backend": config.backend,
            "strict": config.strict,
        }

    def to_linear(self, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
        """A plain linear with the decoded weight."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(dequantize(self.weight, dtype))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(dtype))
        return linear.train(self.training)

    def forward(self, x: Float[Tensor, "*batch in"] | EncodedRows) -> Float[Tensor, "*batch out"]:
        """The product; rows that are in E4M3 already give it in the layer's working type."""
        if isinstance(x, EncodedRows):
            return self._of_rows(x)
        features("Float8Linear", x, self.in_features)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            rows = x.to(dtype).reshape(-1, self.in_features)
            y = _Product.apply(rows, self.weight_codes, self.weight_scales, bias, self.config)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _of_rows(self, x: EncodedRows) -> Tensor:
        if self.config.activation is not Scaling.ROW:
            raise ValueError(
                f"this Float8Linear scales its inputs by {self.config.activation.value}, got rows "
                f"with a scale each. Pass it numbers."
            )
        rows = Float8Tensor(
            codes=x.codes.reshape(-1, self.in_features),
            scales=x.scales.reshape(-1, 1),
            scaling=Scaling.ROW,
        )
        dtype = self.working_dtype
        y = matmul(
            rows,
            _weight(self.weight_codes, self.weight_scales, self.config),
            bias=None if self.bias is None else self.bias.to(dtype),
            out_dtype=dtype,
            backend=self.config.backend,
            strict=self.config.strict,
            quality=self.config.quality,
        )
        return y.view(*x.codes.shape[:-1], self.out_features)

    def receipts(self) -> tuple[Receipt, ...]:
        """What runs where the weight is, in autocast's type or the bias's (bfloat16 without)."""
        dtype = torch.bfloat16 if self.bias is None else self.bias.dtype
        kind = self.weight_codes.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        return linear_receipts(self.config, device=self.weight_codes.device, dtype=dtype)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, scaling={self.config.scaling}"
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        problems = rest[-1]
        for name in ("weight_codes", "weight_scales"):
            given, own = state_dict.get(prefix + name), self.get_buffer(name)
            if given is not None and own is not None and given.dtype != own.dtype:
                problems.append(
                    f"{prefix + name} is {given.dtype} where {own.dtype} holds the bits of a "
                    f"packed weight: the checkpoint was cast when it was saved. Save it as it is."
                )
                return
        if (problem := _stored_problem(state_dict, prefix)) is not None:
            problems.append(problem)
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _stored_problem(state: Any, prefix: str) -> str | None:
    """What is wrong with the numbers of a state dict's weight; None also where some are missing."""
    codes, scales = (state.get(f"{prefix}weight_{part}") for part in ("codes", "scales"))
    if codes is None or scales is None or codes.is_meta or scales.is_meta:
        return None
    values = scales.view(torch.float32)
    if not bool((values.isfinite() & (values > 0)).all()):
        return f"{prefix}weight_scales has scales that are 0, negative, infinite or NaN."
    if bool((codes & 0x7F == 0x7F).any()):
        return f"{prefix}weight_codes has codes that are NaN."
    return None


class _Product(torch.autograd.Function):
    """x W^T + b with x and W rounded to FP8; dx = g W, db = sum g."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        config: Float8Config,
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.config = config
        return matmul(
            quantize(x, config.activation),
            _weight(codes, scales, config),
            bias=bias,
            out_dtype=x.dtype,
            backend=config.backend,
            strict=config.strict,
            quality=config.quality,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        to_x = to_bias = None
        if ctx.needs_input_grad[0]:
            weight = _weight(codes, scales, ctx.config)
            with torch.autocast(grad.device.type, enabled=False):
                to_x = grad @ dequantize(weight, grad.dtype)
        if ctx.needs_input_grad[3]:
            to_bias = grad.sum(0)
        return to_x, None, None, to_bias, None


def _weight(codes: Tensor, scales: Tensor, config: Float8Config) -> Float8Tensor:
    return Float8Tensor(
        codes=codes.view(torch.float8_e4m3fn),
        scales=scales.view(torch.float32),
        scaling=config.weight,
    )


def linear_receipts(
    config: Float8Config, *, device: torch.device, dtype: torch.dtype
) -> tuple[Receipt, ...]:
    """What would round and multiply inputs of ``dtype`` there; raises ``BackendUnavailable``."""
    instance("linear_receipts' config", config, Float8Config, why="it says what shares a scale.")
    operation = operation_for(config.activation, config.weight)
    return (
        ENCODE_ROWS.receipt(Request(device=device, dtype=dtype)),
        receipt(operation, device, dtype, config.backend, config.strict, config.quality),
    )


def why_not_convert(in_features: int, out_features: int, config: Float8Config) -> str | None:
    """Why a linear of this size cannot run in FP8, or None."""
    step = multiple(config.weight)
    if in_features % step or out_features % step:
        return (
            f"its sizes {in_features} and {out_features} are not both divisible by {step}, as "
            f"{config.scaling}-wise FP8 needs"
        )
    return None
