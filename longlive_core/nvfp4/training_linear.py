"""NVFP4TrainingLinear: a linear whose three products run on four-bit operands.

The master weight stays as the optimizer has it. With Q rounding to NVFP4 in blocks along the last
dimension, and H the Hadamard transform along it, a layer computes

    forward           y  = Q_a(x)        Q_w(W)^T      summed over in-features
    input gradient    dx = Q_g(g)        Q_w(W^T)^T    summed over out-features
    weight gradient   dW = Q_g(g^T H)    Q_a(x^T H)^T  summed over tokens

Every operand is rounded once, from the high-precision tensor: x^T is quantized in the forward pass
(and kept in four bits until the backward), g in both directions in one pass. Weights in blocks of
16 x 16 have Q(W^T) = Q(W)^T, so the input gradient is that of the weight that the forward used. H
cancels in its product; it spreads outliers over the 16 tokens of a block. Rounding gradients at
random keeps their mean, which rounding to nearest does not, except where a block's largest values
lie beyond 6 steps of its scale, because the scale was rounded down: these saturate (README.md).

After LongLive-2.0 (arXiv 2605.18739, NVFP4 training) and NVIDIA's NVFP4 recipe (arXiv 2509.25149).
Unlike the original, activations are not rounded a second time for the weight gradient. Paths that
compute in four bits need Blackwell and have not been run on it yet; elsewhere the same rounded
operands are multiplied in a wider type, which is right and slow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from longlive_core.backends import Receipt, Request
from longlive_core.checks import switch, text
from longlive_core.module_swap import features
from longlive_core.nvfp4 import hadamard
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, ScaleRule, check_format
from longlive_core.nvfp4.linear import ReduceAmax, quantize_shared
from longlive_core.nvfp4.matmul import MATMUL, MatmulRequest, matmul
from longlive_core.nvfp4.quantize import QUANTIZE, quantize, quantize_both
from longlive_core.nvfp4.tensor import NVFP4Tensor
from longlive_core.training_linear import TrainingLinear, computed_in


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the three products of a training linear are quantized.

    Attributes:
        activation, gradient: quantized in blocks of 1 x 16, along what is summed.
        weight: in blocks of 16 x 16, or of 1 x 16, which rounds W and W^T each on its own.
        forward, input_gradient, weight_gradient: which products have quantized operands; the others
            are computed in the type of the input.
        hadamard: rotate the weight gradient's operands.
        backend: a row of ``MATMUL``, or "auto".
        strict: refuse to emulate.
    """

    activation: QuantizeConfig = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
    weight: QuantizeConfig = QuantizeConfig(rule=ScaleRule.AMAX_6, block=(BLOCK, BLOCK))
    gradient: QuantizeConfig = QuantizeConfig(
        rule=ScaleRule.FOUR_OVER_SIX_MSE, rounding="stochastic"
    )
    forward: bool = True
    input_gradient: bool = True
    weight_gradient: bool = True
    hadamard: bool = True
    backend: str = "auto"
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("activation", "weight", "gradient"):
            check_format(f"TrainingConfig.{name}", vars(self)[name])
        for name in ("forward", "input_gradient", "weight_gradient", "hadamard", "strict"):
            switch(f"TrainingConfig.{name}", vars(self)[name], why="It is on or off.")
        text("TrainingConfig.backend", self.backend, why="It names what multiplies, or 'auto'.")
        for name in ("activation", "weight"):
            if vars(self)[name].rounding != "nearest":
                raise ValueError(
                    f"TrainingConfig({name}.rounding='stochastic'): a forward pass that is "
                    f"computed twice, as activation checkpointing does, must be the same twice. "
                    f"Round only gradients at random."
                )
        for name in ("activation", "gradient"):
            if vars(self)[name].block != (1, BLOCK):
                raise ValueError(
                    f"TrainingConfig({name}.block={vars(self)[name].block}): tokens must not share "
                    f"a scale. Use (1, {BLOCK})."
                )

    @property
    def quantizes(self) -> bool:
        """Whether any product is quantized."""
        return self.forward or self.input_gradient or self.weight_gradient


OFF = TrainingConfig(forward=False, input_gradient=False, weight_gradient=False)
"""No product is quantized: the layer is ``nn.Linear``, for comparisons."""


class NVFP4TrainingLinear(TrainingLinear[TrainingConfig]):
    """A linear with a master weight whose products run on NVFP4 operands.

    Its state dict is that of ``nn.Linear``. ``reduce_amax`` makes one amax of those of several
    ranks that hold parts of the same activation or gradient, so that codes do not depend on how a
    sequence is split. Random rounding draws its seeds from torch's global generator of the device.
    """

    numbers = "NVFP4"
    config_type = TrainingConfig

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if not self.config.quantizes:
            return super().forward(x)
        features("NVFP4TrainingLinear", x, self.in_features)
        kind, dtype = x.device.type, computed_in(x)
        with torch.autocast(kind, enabled=False):
            rows = x.to(dtype).reshape(-1, self.in_features)
            y = _Products.apply(rows, self.weight, self.config, self.reduce_amax)
            if self.bias is not None:
                y = y + self.bias.to(dtype)
        return y.reshape(*x.shape[:-1], self.out_features)

    def receipts(self) -> tuple[Receipt, ...]:
        """What a quantized product runs on where the weight is, in its type or autocast's."""
        device, dtype = self.weight.device, computed_in(self.weight)
        request = MatmulRequest(
            device=device, dtype=dtype, inner=self.in_features, outputs=self.out_features
        )
        config = self.config
        return (
            QUANTIZE.receipt(Request(device=device, dtype=dtype)),
            MATMUL.receipt(request, config.backend, strict=config.strict),
        )


class _Products(torch.autograd.Function):
    """The three products of the module's docstring. x is [tokens, in], W is [out, in]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        config: TrainingConfig,
        reduce_amax: ReduceAmax | None,
    ) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        transposed = needs_weight and config.weight_gradient
        x_q, x_t = _two_ways(x, config.activation, config.forward, transposed, config, reduce_amax)
        keep_w = needs_x and config.input_gradient and _square(config)
        w_q = quantize(weight, config.weight) if config.forward or keep_w else None
        plain = not config.forward
        y = x @ weight.to(x.dtype).t() if plain else _multiply(x_q, w_q, x.dtype, config)

        ctx.config, ctx.reduce_amax, ctx.dtype = config, reduce_amax, x.dtype
        plain_x = x if needs_weight and not config.weight_gradient else None
        ctx.x_shape, x_parts = _apart(x_t)
        ctx.w_shape, w_parts = _apart(w_q if keep_w else None)
        ctx.save_for_backward(weight, plain_x, *x_parts, *w_parts)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        config: TrainingConfig = ctx.config
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        weight, x, *parts = ctx.saved_tensors
        x_t = _together(parts[:3], config.activation, ctx.x_shape)
        w_q = _together(parts[3:], config.weight, ctx.w_shape)
        to_x = to_weight = None
        with torch.autocast(grad.device.type, enabled=False):
            along, across = needs_x and config.input_gradient, needs_weight and x_t is not None
            g_q, g_t = _two_ways(grad, config.gradient, along, across, config, ctx.reduce_amax)
            if needs_x and config.input_gradient:
                w_t = quantize(weight.t(), config.weight) if w_q is None else w_q.transpose()
                to_x = _multiply(g_q, w_t, ctx.dtype, config)
            elif needs_x:
                to_x = grad @ weight.to(grad.dtype)
            if needs_weight and x_t is not None:
                to_weight = _multiply(g_t, x_t, weight.dtype, config)
            elif needs_weight:
                to_weight = (grad.t() @ x).to(weight.dtype)
        return to_x, to_weight, None, None


def _two_ways(
    x: Tensor,
    operand: QuantizeConfig,
    along: bool,
    across: bool,
    config: TrainingConfig,
    reduce_amax: ReduceAmax | None,
) -> tuple[NVFP4Tensor | None, NVFP4Tensor | None]:
    """x quantized along its rows and its transpose quantized along the tokens, as far as needed."""
    if along and across and reduce_amax is None:
        return quantize_both(x, operand, rotate=config.hadamard)
    first = quantize_shared(x, operand, reduce_amax) if along else None
    return first, _across(x, operand, config.hadamard, reduce_amax) if across else None


def _across(
    x: Tensor, operand: QuantizeConfig, rotate: bool, reduce_amax: ReduceAmax | None
) -> NVFP4Tensor:
    """The transpose, quantized along the tokens, which are padded with zeros to whole blocks."""
    tokens, cols = x.shape
    transposed = nn.functional.pad(x.t(), (0, -tokens % BLOCK))
    if rotate:
        transposed = hadamard.rotate_wide(transposed)
    return replace(quantize_shared(transposed, operand, reduce_amax), shape=(cols, tokens))


def _multiply(
    a: NVFP4Tensor | None,
    b: NVFP4Tensor | None,
    dtype: torch.dtype,
    config: TrainingConfig,
) -> Tensor:
    assert a is not None and b is not None
    return matmul(a, b, dtype=dtype, backend=config.backend, strict=config.strict)


def _square(config: TrainingConfig) -> bool:
    """Whether the quantized weight's transpose is the quantized transpose."""
    return config.weight.block == (BLOCK, BLOCK)


def _apart(q: NVFP4Tensor | None) -> tuple[tuple[int, ...], tuple[Tensor | None, ...]]:
    """Shape and tensors, as the graph keeps them."""
    return ((), (None, None, None)) if q is None else (q.shape, (q.codes, q.block_scales, q.amax))


def _together(
    parts: Sequence[Tensor | None], config: QuantizeConfig, shape: tuple[int, ...]
) -> NVFP4Tensor | None:
    codes, scales, amax = parts
    if codes is None or scales is None or amax is None:
        return None
    return NVFP4Tensor(codes=codes, block_scales=scales, amax=amax, config=config, shape=shape)
