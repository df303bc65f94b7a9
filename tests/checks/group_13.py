"""Group 13: NVFP4 as Transformer Engine's own Python reference writes it, byte for byte.

Its four-over-six adds a block's errors one after another, the original in another order, which is
the library's. At near ties a block may take the other scale: what is compared is quantized with
Transformer Engine's order put in its place, and no more than one block in a hundred may need it.
"""

import re
from unittest.mock import patch

import torch
from torch import Tensor

from longlive_core.nvfp4 import (
    NVFP4Tensor,
    QuantizeConfig,
    ScaleRule,
    dequantize,
    matmul,
    quantize,
    quantize_both,
    rotate,
    scale_rules,
    tensor_amax,
)
from tests.checks.framework import Case, Report, Verdict

_NAME = re.compile(
    r"output\.(?P<tensor>.+?)\.(?P<side>columnwise_rht\.|columnwise\.)?"
    r"(?P<rule>amax_6|amax_4|four_over_six_(?:mse|mae))(?:_(?P<bound>256|448))?"
    r"\.(?P<block>1x16|16x16)\.(?P<part>codes_packed|scales_e4m3_bytes|amax)"
)
_GEMM = "output.gemm.y_f64_as_f32"


def check(case: Case) -> Verdict:
    report, parity = Report(case), False
    for name, want in case.tensors.items():
        match = _NAME.fullmatch(name)
        if match is None and name.startswith("output.") and name != _GEMM:
            report.equal(f"{name} is no output that is known", False, True)
        if match is not None:
            x = case.tensors[f"input.{match['tensor']}"]
            height, width = map(int, match["block"].split("x"))
            config = QuantizeConfig(
                rule=ScaleRule(match["rule"]),
                bound=int(match["bound"]) if match["bound"] else None,
                block=(height, width),
            )
            ours = _quantized(x, config, match["side"] or "")
            with patch.object(scale_rules, "ordered_sum", added_one_after_another):
                theirs = _quantized(x, config, match["side"] or "")
            _compare(report, name, theirs, match["part"], want)
            apart = int((ours.block_scales.float() != theirs.block_scales.float()).sum())
            few = max(height, ours.block_scales.numel() // 100)
            report.equal(f"{name}: more near ties than 1 %", max(0, apart - few), 0)
            parity |= apart > 0
    if _GEMM in case.tensors:
        _check_gemm(case, report)
    return report.verdict(parity)


def added_one_after_another(errors: Tensor) -> Tensor:
    """How Transformer Engine's reference adds the errors of blocks: along each row, then rows."""
    rows = errors.unflatten(-1, (-1, 16))
    total = rows[..., 0]
    for column in range(1, 16):
        total = total + rows[..., column]
    while total.shape[-1] > 1:
        first, second = total.chunk(2, dim=-1)
        total = first + second
    return total[..., 0]


def _quantized(x: Tensor, config: QuantizeConfig, side: str) -> NVFP4Tensor:
    """Along the columns, or the transpose along the rows, by way of both public functions."""
    if not side:
        return quantize(x, config)
    turn = side == "columnwise_rht."
    _, columnwise = quantize_both(x, config, rotate=turn)
    alone = quantize(rotate(x.t()) if turn else x.t(), config)
    assert torch.equal(columnwise.codes, alone.codes)
    return columnwise


def _compare(report: Report, name: str, q: NVFP4Tensor, part: str, want: Tensor) -> None:
    got = {
        "codes_packed": q.codes,
        "scales_e4m3_bytes": q.block_scales.view(torch.uint8),
        "amax": q.amax.reshape(want.shape) if part == "amax" else q.amax,
    }[part]
    if part == "scales_e4m3_bytes" and want.shape[0] * 16 == got.shape[0]:
        want = want.repeat_interleave(16, 0)  # one row of scales for 16 rows
    report.equal(name, got, want)


def _check_gemm(case: Case, report: Report) -> None:
    """A product of two operands whose codes were compared above."""
    x = quantize(case.tensors["input.normal_bf16"], QuantizeConfig())
    w = quantize(case.tensors["input.gemm.w"], QuantizeConfig(block=(16, 16)))
    want = case.tensors[_GEMM]
    atol = 1e-5 * float(want.norm()) / want.numel() ** 0.5
    for backend in ("emulated", "reference"):
        got = matmul(x, w, dtype=torch.float32, backend=backend)
        report.close(f"gemm {backend}", got, want, rtol=0.0, atol=atol)
    decoded = dequantize(x).double() @ dequantize(w).double().t()
    report.close("gemm of decoded values", decoded, want, rtol=0.0, atol=atol)
    report.equal("gemm amax", tensor_amax(case.tensors["input.gemm.w"]), w.amax)
