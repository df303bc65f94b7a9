"""Quantise and dequantise: the public operations and the backends behind them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from longlive_core.backends import Backend, Operation, Request
from longlive_core.nvfp4 import reference
from longlive_core.nvfp4.format import QuantizeConfig
from longlive_core.nvfp4.tensor import NVFP4Tensor, padded_size

QUANTIZE = Operation("nvfp4.quantize", (Backend(name="reference", run=reference.quantize),))
DEQUANTIZE = Operation("nvfp4.dequantize", (Backend(name="reference", run=reference.dequantize),))

_DEFAULT = QuantizeConfig()


def tensor_amax(x: Float[Tensor, "..."], groups: int | None = None) -> Float32[Tensor, "*groups"]:
    """The largest magnitude of ``x``, or of each of ``groups`` equal parts along its rows.

    NaN and infinity give NaN: a tensor that holds one decodes to NaN as a whole.
    """
    if x.numel() == 0:
        raise ValueError(f"nvfp4 needs at least one value, got shape {tuple(x.shape)}.")
    parts = x.flatten() if groups is None else x.reshape(groups, -1)
    largest = torch.linalg.vector_norm(parts, float("inf"), dim=-1, dtype=torch.float32)
    return largest.nan_to_num(nan=float("nan"), posinf=float("nan"))


def quantize(
    x: Float[Tensor, "*batch cols"],
    config: QuantizeConfig = _DEFAULT,
    *,
    amax: Float32[Tensor, "*groups"] | None = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> NVFP4Tensor:
    """Quantise to NVFP4; leading dimensions of ``x`` are rows of one matrix.

    ``amax`` is the magnitude that the scales are made for, if it is known or shared; a vector gives
    equal groups of rows one each. ``generator`` seeds stochastic rounding (torch's global one
    unless given). Ragged sizes are padded with zeros to whole blocks. NaN and infinity propagate:
    see ``reference.py``. ``backend`` is a name of the table ``QUANTIZE`` or "auto".
    """
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"nvfp4.quantize takes float32, bfloat16 or float16, got {x.dtype}: its arithmetic is "
            f"float32. Convert the tensor first."
        )
    amax = tensor_amax(x) if amax is None else amax
    seed = None
    if config.rounding == "stochastic":
        where = x.device if generator is None else generator.device
        seed = torch.randint(2**63 - 1, (), generator=generator, device=where).to(x.device)
    rows, cols = padded_size(tuple(x.shape), config)
    matrix = x.reshape(-1, x.shape[-1])
    matrix = F.pad(matrix, (0, cols - matrix.shape[1], 0, rows - matrix.shape[0]))
    run = QUANTIZE.select(Request(device=x.device, dtype=x.dtype), backend)
    codes, scales = run(matrix, amax, config, seed)
    return NVFP4Tensor(
        codes=codes, block_scales=scales, amax=amax, config=config, shape=tuple(x.shape)
    )


def dequantize(
    q: NVFP4Tensor, dtype: torch.dtype = torch.float32, *, backend: str = "auto"
) -> Float[Tensor, "..."]:
    """The values that ``q`` stands for, of shape ``q.shape``, computed in float32 and rounded once.

    ``backend`` is a name of the table ``DEQUANTIZE`` or "auto".
    """
    run = DEQUANTIZE.select(Request(device=q.device, dtype=dtype), backend)
    matrix = run(q.codes, q.block_scales, q.amax, q.config).to(dtype)
    rows = math.prod(q.shape[:-1])
    return matrix[:rows, : q.shape[-1]].reshape(q.shape)
