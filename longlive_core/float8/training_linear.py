"""Float8TrainingLinear: a linear whose three products run on eight-bit operands.

The master weight stays as the optimizer has it. With Q rounding the rows of a matrix to E4M3, one
scale a row, a layer computes

    forward           y  = Q(x)    Q(W)^T      summed over in-features
    input gradient    dx = Q(g)    Q(W^T)^T    summed over out-features
    weight gradient   dW = Q(g^T)  Q(x^T)^T    summed over tokens

so that a scale never lies across what is summed over: each product is scaled after its sum, which
is one of float32. Every operand is rounded once, from the high-precision tensor; x^T in the forward
pass, and it is kept in eight bits until the backward. A product is rounded to the type of the input
(bfloat16 under autocast); dW is then widened to the master weight's type and added up there.

Gradients are E4M3 as well. E5M2 gives one bit of precision for range, which gradients needed where
one scale served a whole tensor. With a scale for each row E4M3's range, 2**18 from the largest
number to the smallest, is enough, and its error half that of E5M2; DeepSeek-V3 (arXiv 2412.19437,
section 3.3.2) trained so with finer scales, and TorchAO's row-wise recipe does.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from longlive_core.backends import Receipt, Request
from longlive_core.checks import switch, text
from longlive_core.eight_bit.columnwise import ENCODE_COLUMNS
from longlive_core.eight_bit.rowwise import ENCODE_ROWS
from longlive_core.float8.matmul import matmul, multiple, receipt
from longlive_core.float8.matmul_backends import ROW_MATMUL
from longlive_core.float8.tensor import (
    Float8Tensor,
    ReduceAmax,
    Scaling,
    quantize,
    quantize_columns,
)
from longlive_core.module_swap import features
from longlive_core.training_linear import TrainingLinear, computed_in


@dataclass(frozen=True, kw_only=True)
class Float8TrainingConfig:
    """Which of the three products of a training linear run in FP8.

    Attributes:
        forward, input_gradient, weight_gradient: which products have operands in FP8; the others
            are computed in the type of the input.
        backend: a row of ``ROW_MATMUL``, or "auto".
        strict: refuse to emulate.
    """

    forward: bool = True
    input_gradient: bool = True
    weight_gradient: bool = True
    backend: str = "auto"
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("forward", "input_gradient", "weight_gradient", "strict"):
            switch(f"Float8TrainingConfig.{name}", vars(self)[name], why="It is on or off.")
        text(
            "Float8TrainingConfig.backend",
            self.backend,
            why="It names what multiplies, or 'auto'.",
        )

    @property
    def quantizes(self) -> bool:
        """Whether any product has operands in FP8."""
        return self.forward or self.input_gradient or self.weight_gradient


class Float8TrainingLinear(TrainingLinear[Float8TrainingConfig]):
    """A linear with a master weight whose products run on FP8 operands.

    Its state dict is that of ``nn.Linear``. ``reduce_amax`` makes one vector of magnitudes of those
    of several ranks that hold other tokens of the same activation or gradient, so that the codes
    of the weight gradient do not depend on how tokens are dealt out. A token's own scale never
    does.
    """

    numbers = "FP8"
    config_type = Float8TrainingConfig

    def check_sizes(self, in_features: int, out_features: int) -> None:
        if (reason := why_not_train(in_features, out_features)) is not None:
            raise ValueError(
                f"Float8TrainingLinear cannot train this weight: {reason}. Keep an nn.Linear."
            )

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        features("Float8TrainingLinear", x, self.in_features)
        if not self.config.quantizes or not x.numel():
            return super().forward(x)
        dtype, kind = computed_in(x), x.device.type
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            rows = x.to(dtype).reshape(-1, self.in_features)
            y = _Products.apply(rows, self.weight, bias, self.config, self.reduce_amax)
        return y.reshape(*x.shape[:-1], self.out_features)

    def receipts(self) -> tuple[Receipt, ...]:
        """What a product in FP8 runs on where the weight is, in its type or that of autocast."""
        request = Request(device=self.weight.device, dtype=computed_in(self.weight))
        config = self.config
        return (
            ENCODE_ROWS.receipt(request),
            ENCODE_COLUMNS.receipt(request),
            receipt(ROW_MATMUL, request.device, request.dtype, config.backend, config.strict),
        )


class _Products(torch.autograd.Function):
    """The three products of the module's docstring. x is [tokens, in], W is [out, in]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        config: Float8TrainingConfig,
        reduce_amax: ReduceAmax | None,
    ) -> Tensor:
        ctx.config, ctx.reduce_amax = config, reduce_amax
        plain_x, codes, scales = None, None, None
        if ctx.needs_input_grad[1] and config.weight_gradient:
            x_t = quantize_columns(x, reduce_amax)
            codes, scales = x_t.codes, x_t.scales
        elif ctx.needs_input_grad[1]:
            plain_x = x
        ctx.save_for_backward(weight, plain_x, codes, scales)
        if config.forward:
            return _multiply(quantize(x), quantize(weight), x.dtype, config, bias)
        return nn.functional.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        config: Float8TrainingConfig = ctx.config
        weight, plain_x, codes, scales = ctx.saved_tensors
        to_x = to_weight = to_bias = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0] and config.input_gradient:
                to_x = _multiply(quantize(grad), quantize_columns(weight), grad.dtype, config)
            elif ctx.needs_input_grad[0]:
                to_x = grad @ weight.to(grad.dtype)
            if codes is not None:
                x_t = Float8Tensor(codes=codes, scales=scales, scaling=Scaling.ROW)
                g_t = quantize_columns(grad, ctx.reduce_amax)
                to_weight = _multiply(g_t, x_t, grad.dtype, config).to(weight.dtype)
            elif plain_x is not None:
                to_weight = (grad.t() @ plain_x).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                to_bias = grad.sum(0)
        return to_x, to_weight, to_bias, None, None


def _multiply(
    a: Float8Tensor,
    b: Float8Tensor,
    dtype: torch.dtype,
    config: Float8TrainingConfig,
    bias: Tensor | None = None,
) -> Tensor:
    return matmul(a, b, bias=bias, out_dtype=dtype, backend=config.backend, strict=config.strict)


def why_not_train(in_features: int, out_features: int) -> str | None:
    """Why the products of a linear of this size cannot run in FP8, or None."""
    step = multiple(Scaling.ROW)
    if in_features % step or out_features % step:
        return (
            f"its sizes {in_features} and {out_features} are not both divisible by {step}, as FP8 "
            f"products need"
        )
    return None
