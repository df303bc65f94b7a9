"""Group 13: NVFP4 as Transformer Engine's own Python reference writes it, byte for byte."""

import re

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
    tensor_amax,
)
from tests.checks.framework import Case, Report, Verdict

_NAME = re.compile(
    r"output\.(?P<tensor>.+?)\.(?P<side>columnwise_rht\.|columnwise\.)?"
    r"(?P<rule>amax_6|amax_4|four_over_six_(?:mse|mae))(?:_(?P<bound>256|448))?"
    r"\.(?P<block>1x16|16x16)\.(?P<part>codes_packed|scales_e4m3_bytes|amax)"
)


def check(case: Case) -> Verdict:
    report = Report(case)
    for name, want in case.tensors.items():
        if match := _NAME.fullmatch(name):
            x = case.tensors[f"input.{match['tensor']}"]
            height, width = map(int, match["block"].split("x"))
            config = QuantizeConfig(
                rule=ScaleRule(match["rule"]),
                bound=int(match["bound"]) if match["bound"] else None,
                block=(height, width),
            )
            q = _quantized(x, config, match["side"] or "")
            _compare(report, name, q, match["part"], want)
    if "output.gemm.y_f64_as_f32" in case.tensors:
        _check_gemm(case, report)
    return report.verdict()


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
    want = case.tensors["output.gemm.y_f64_as_f32"]
    atol = 1e-5 * float(want.norm()) / want.numel() ** 0.5
    for backend in ("emulated", "reference"):
        got = matmul(x, w, dtype=torch.float32, backend=backend)
        report.close(f"gemm {backend}", got, want, rtol=0.0, atol=atol)
    decoded = dequantize(x).double() @ dequantize(w).double().t()
    report.close("gemm of decoded values", decoded, want, rtol=0.0, atol=atol)
    report.equal("gemm amax", tensor_amax(case.tensors["input.gemm.w"]), w.amax)
