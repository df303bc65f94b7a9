"""Products with NVFP4 operands, a b^T, and the backends behind them.

Two operations, by what the left operand is:

- ``MATMUL``, four bits on both sides (W4A4): tensor cores of Blackwell compute it; elsewhere it is
  emulated. Values times block scales are exact in bfloat16, so a wider GEMM that adds in float32
  sums the same products; only the order of additions differs.
- ``WEIGHT_MATMUL``, four bits in the weight alone (W4A16): a format for storage. Not an emulation:
  the weight is decoded, and the product is one of the left operand's type.

Weights lie as [out, in], quantized along ``in``: ``matmul(a, b)`` is a b^T.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Receipt
from longlive_core.checks import instance, switch, text
from longlive_core.nvfp4.format import config_text
from longlive_core.nvfp4.matmul_backends import MATMUL as MATMUL
from longlive_core.nvfp4.matmul_backends import WEIGHT_MATMUL as WEIGHT_MATMUL
from longlive_core.nvfp4.matmul_backends import MatmulRequest as MatmulRequest
from longlive_core.nvfp4.matmul_backends import Multiply
from longlive_core.nvfp4.matmul_ops import matmul_request as matmul_request
from longlive_core.nvfp4.tensor import NVFP4Tensor
from longlive_core.tensor_checks import dense, float_type

Activations = Float[Tensor, "*batch inner"]
Bias = Float[Tensor, " outputs"]


def matmul(
    a: Activations | NVFP4Tensor,
    b: NVFP4Tensor,
    *,
    bias: Bias | None = None,
    dtype: torch.dtype = torch.bfloat16,
    backend: str = "auto",
    strict: bool = False,
) -> Float[Tensor, "*batch outputs"]:
    """a b^T + bias for a weight ``b`` [out, in]; ``a`` is quantized too (W4A4) or is not (W4A16).

    ``dtype`` is the result's for W4A4; W4A16 gives the type of ``a``, and a gradient to ``a`` (that
    of the product with the decoded weight) and ``bias``. ``backend`` names a row of ``MATMUL`` or
    ``WEIGHT_MATMUL``; ``strict`` refuses emulation. Raises ``BackendUnavailable``.
    """
    float_type("nvfp4.matmul's dtype", dtype, why="it is the result's. Use torch.bfloat16.")
    text("nvfp4.matmul's backend", backend, why="it names what multiplies. Use 'auto'.")
    switch("nvfp4.matmul's strict", strict, why="True refuses to emulate.")
    if bias is not None:
        dense("nvfp4.matmul's bias", bias, why="it has a number for each output.")
    request = matmul_request(a, b, dtype)
    if not request.dtype.is_floating_point:
        raise ValueError(
            f"nvfp4.matmul computes in float types, got {request.dtype}. Convert the operand, or "
            f"choose another dtype=."
        )
    if bias is not None and bias.shape != b.shape[:1]:
        raise ValueError(
            f"nvfp4.matmul adds a bias of {b.shape[0]} numbers, one an output, got shape "
            f"{tuple(bias.shape)}."
        )
    if bias is not None and isinstance(a, Tensor) and bias.dtype != a.dtype:
        raise ValueError(
            f"nvfp4.matmul adds a bias of the type of a, {a.dtype}, got {bias.dtype}: convert it."
        )
    if isinstance(a, NVFP4Tensor):
        out = torch.ops.longlive.nvfp4_matmul(
            a.codes,
            a.block_scales,
            a.amax,
            config_text(a.config),
            b.codes,
            b.block_scales,
            b.amax,
            config_text(b.config),
            _padded_bias(bias, b),
            dtype,
            backend,
            strict,
        )
        return out[: math.prod(a.shape[:-1]), : b.shape[0]].reshape(*a.shape[:-1], b.shape[0])
    x = F.pad(a, (0, request.inner - a.shape[-1])) if request.inner != a.shape[-1] else a
    out = torch.ops.longlive.nvfp4_weight_matmul(
        x.reshape(math.prod(a.shape[:-1]), request.inner),
        b.codes,
        b.block_scales,
        b.amax,
        config_text(b.config),
        _padded_bias(bias, b),
        request.needs_grad,
        backend,
        strict,
    )
    return out[:, : b.shape[0]].reshape(*a.shape[:-1], b.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightProduct:
    """A weight made ready for many products: ``multiply(x, bias)`` on rows ``x``, no gradient."""

    receipt: Receipt
    multiply: Multiply


def prepare_weight(
    b: NVFP4Tensor, *, dtype: torch.dtype = torch.bfloat16, backend: str = "auto"
) -> WeightProduct:
    """Make ``b`` [out, in] ready for W4A16 products with activations of ``dtype``.

    For backends that repack the weight (humming), which ``matmul`` would do at every call.
    ``multiply`` takes rows as long as the padded ``in`` and gives the padded ``out``.
    """
    why = "the weight is packed. Pass quantize(weight)."
    instance("prepare_weight's b", b, NVFP4Tensor, why=why)
    text("prepare_weight's backend", backend, why="it names what multiplies. Use 'auto'.")
    request = MatmulRequest(
        device=b.device,
        dtype=dtype,
        inner=2 * b.codes.shape[1],
        outputs=b.codes.shape[0],
        groups=b.amax.numel() > 1,
    )
    receipt = WEIGHT_MATMUL.receipt(request, backend)
    multiply = WEIGHT_MATMUL.named(receipt.backend).run(b)
    return WeightProduct(receipt=receipt, multiply=multiply)


def _padded_bias(bias: Tensor | None, b: NVFP4Tensor) -> Tensor | None:
    missing = b.codes.shape[0] - b.shape[0]
    return F.pad(bias, (0, missing)) if bias is not None and missing else bias
