"""Group 9: the original's NVFP4: quantizer, tiles, rotation, product, checkpoint, cache pages.

Four-over-six is compared byte for byte. The static rules multiply in another order than the
original, ``a * (S / 6)`` against ``(a / 6) * S``, so that up to 2 % of a tensor's block scales, or
16 of them, may be one step off where bfloat16 inputs tie; what lies under such a scale is compared
with the original's order put in its place. Blocks that the original's reference overflows into the
sign bit are left out whole, and the verdict names the rule.
"""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from unittest.mock import Mock, patch

import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_core.attention import attention, masked_attention
from longlive_core.nvfp4 import (
    LinearConfig,
    NVFP4PageCodec,
    NVFP4Tensor,
    QuantizeConfig,
    ScaleRule,
    convert_linears,
    dequantize,
    matmul,
    quantize,
    reference,
    rotate,
    swizzle,
    unswizzle,
)
from longlive_core.nvfp4.rounding import to_e4m3
from longlive_core.nvfp4.scale_rules import block_scales, decode_scale, divide, encode_scale
from longlive_models.objectives import block_causal_mask
from longlive_models.wan import WanTransformer
from longlive_models.wan import attention as wan_attention
from tests.checks.four_bit_pages import check_pipeline
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import batch, build, texts

RULES = {
    "static_6": ScaleRule.AMAX_6,
    "static_4": ScaleRule.AMAX_4,
    "mse": ScaleRule.FOUR_OVER_SIX_MSE,
    "mae": ScaleRule.FOUR_OVER_SIX_MAE,
    "abs_max": ScaleRule.FOUR_OVER_SIX_ABS_MAX,
}
_RULE = "|".join(RULES)
_OVERFLOW = 7.0  # what rounds to 8 in the original, whose code is that of -0


@dataclass
class Tally:
    """A report, whether blocks were left out of it, and whether the original's order was needed."""

    report: Report
    left_out: bool = False
    parity: bool = False

    def verdict(self) -> Verdict:
        verdict = self.report.verdict(self.parity)
        if verdict.kind != "failed" and self.left_out:
            return Verdict.differs("saturation at 6")
        return verdict


@torch.no_grad()
def check(case: Case) -> Verdict:
    tally = Tally(Report(case))
    if any(name.startswith("output.nvfp4_state.") for name in case.tensors):
        _check_checkpoint(case, tally)
    elif "output.mean_dequant_f32" in case.tensors:
        _check_stochastic(case, tally.report)
    elif "input.a" in case.tensors:
        _check_matmul(case, tally)
    elif any(".block0.codes_packed" in name for name in case.tensors):
        if "pipeline" in case.config:
            tally.parity = True
            with patch.object(reference, "block_scales", original_scales):
                if verdict := check_pipeline(case, tally.report, RULES):
                    return verdict
        else:
            _check_pages(case, tally)
    else:
        _check_quantized(case, tally)
    return tally.verdict()


def original_scales(blocks: Tensor, amax: Tensor, config: QuantizeConfig) -> Tensor:
    """``block_scales`` with a static rule's factors multiplied in the original's order."""
    if config.rule.adaptive:
        return block_scales(blocks, amax, config)
    largest = divide(blocks.abs().amax(-1), config.rule.target)
    return to_e4m3(largest * encode_scale(amax, config))


def original_order(x: Tensor, config: QuantizeConfig) -> NVFP4Tensor:
    """``x`` quantized with those scales."""
    with patch.object(reference, "block_scales", original_scales):
        return quantize(x, config, backend="reference")


def compare(
    tally: Tally,
    label: str,
    x: Tensor,
    config: QuantizeConfig,
    codes: Tensor,
    scales: Tensor,
) -> NVFP4Tensor:
    """Codes and linear scales of ``x`` against the original's; give what is equal to them."""
    report = tally.report
    ours, theirs = quantize(x, config), original_order(x, config)
    got, want = ours.block_scales.view(torch.uint8).int(), scales.view(torch.uint8).int()
    step = decode_scale(ours.amax, config) * scales.float().repeat_interleave(16, 1)
    over = (x.abs().float() / step >= _OVERFLOW).unflatten(1, (-1, 16)).any(-1)
    height = config.block[0]
    kept = ~over.unflatten(0, (-1, height)).any(1).repeat_interleave(height, 0)
    tally.left_out |= not bool(kept.all())
    off = (got - want).abs() * kept
    allowed = 0 if config.rule.adaptive else max(16, got.numel() * 2 // 100)
    report.equal(f"{label} scales more than a step off", int((off > 1).sum()), 0)
    report.equal(f"{label} more scales off than allowed", max(0, int((off > 0).sum()) - allowed), 0)
    for part, q, where in (("", ours, kept & (off == 0)), (" in its order", theirs, kept)):
        bytes_ = where.repeat_interleave(8, 1)
        report.equal(f"{label} codes{part}", q.codes * bytes_, codes * bytes_)
    report.equal(
        f"{label} scales in its order", theirs.block_scales.view(torch.uint8) * kept, want * kept
    )
    return theirs


def _square(case: Case) -> bool:
    """Whether blocks are squares, as the case's settings say in their first word."""
    block = case.config.get("block", "1x16").split()[0]
    assert block in ("1x16", "16x16"), f"blocks of {block}"
    return block == "16x16"


def padded(x: Tensor) -> Tensor:
    """As the original pads: rows to 128, columns to 64."""
    return F.pad(x, (0, -x.shape[1] % 64, 0, -x.shape[0] % 128))


def _check_quantized(case: Case, tally: Tally) -> None:
    """Any output ``NAME[.transform].RULE.codes_packed``, and the parts beside it."""
    square = _square(case)
    tensors = case.tensors
    if (matrix := tensors.get("output.rht_matrix")) is not None:
        tally.report.equal("rht_matrix", rotate(torch.eye(16, dtype=matrix.dtype)), matrix)
    for name in tensors:
        if not (match := re.fullmatch(rf"output\.(.+)\.({_RULE})\.codes_packed", name)):
            continue
        source, rule = match[1], match[2]
        source, _, transform = (
            source.rpartition(".") if f"input.{source}" not in tensors else (source, "", "")
        )
        config = QuantizeConfig(
            rule=RULES[rule], block=(16, 16) if square or transform.endswith("2d") else (1, 16)
        )
        x = _transformed(tensors, source, transform, tally.report)
        _check_tensor(case, tally, name.removesuffix(".codes_packed"), x, config)


def _transformed(tensors: dict[str, Tensor], source: str, transform: str, report: Report) -> Tensor:
    """What the original quantized; a rotation is compared with ours and then taken as given."""
    x = tensors[f"input.{source}"]
    x = x.t() if transform.startswith("transpose") else x
    if transform.endswith("rht"):
        turned = "t_rht_applied" if transform.startswith("transpose") else "rht_applied"
        given = tensors.get(f"output.{source}.{turned}")
        if given is None:
            return rotate(x.contiguous())
        report.close(f"{source} {turned}", rotate(x.contiguous()), given, rtol=2**-8, atol=1e-30)
        return given
    return x.contiguous()


def _check_tensor(case: Case, tally: Tally, prefix: str, x: Tensor, config: QuantizeConfig) -> None:
    report, parts = tally.report, case.tensors
    whole, codes = padded(x), parts[f"{prefix}.codes_packed"]
    blocked = parts.get(f"{prefix}.scales_blocked_e4m3_bytes")
    linear = parts.get(f"{prefix}.scales_rowmajor_f32")
    if blocked is not None:
        scales = unswizzle(blocked.view(torch.float8_e4m3fn), whole.shape[0], whole.shape[1] // 16)
        report.equal(f"{prefix} swizzle", swizzle(scales).view(torch.uint8), blocked)
        if linear is not None:
            report.equal(f"{prefix} linear scales", scales.float(), linear)
    elif linear is not None:
        scales = linear.to(torch.float8_e4m3fn)
    else:
        return
    if (amax := parts.get(f"{prefix}.amax")) is not None:
        report.equal(f"{prefix} amax", quantize(x, config).amax.reshape(amax.shape), amax)
    equal = compare(tally, prefix, whole, config, codes, scales)
    ours = quantize(x, config)  # without the original's padding
    cut = [quantize(whole, config).codes[: ours.codes.shape[0], : ours.codes.shape[1]]]
    report.equal(f"{prefix} ragged", ours.codes, *cut)
    given = replace(equal, codes=codes, block_scales=scales)
    for name, dtype, rtol in (
        ("dequant_f32", torch.float32, 1e-6),
        ("dequant_bf16", torch.bfloat16, 2**-7),
    ):
        if (want := parts.get(f"{prefix}.{name}")) is not None:
            got = dequantize(given, dtype)[: want.shape[0], : want.shape[1]]
            report.close(f"{prefix}.{name}", got, want, rtol=rtol, atol=1e-37)


def _check_matmul(case: Case, tally: Tally) -> None:
    for name, want in case.tensors.items():
        if not (match := re.fullmatch(rf"output\.({_RULE})\.(float32|bfloat16)", name)):
            continue
        config = QuantizeConfig(rule=RULES[match[1]])
        tally.parity |= not config.rule.adaptive
        a, b = (original_order(case.tensors[f"input.{side}"], config) for side in "ab")
        rtol, atol = (1e-5, 1e-5) if want.dtype == torch.float32 else (2**-7, 1e-5)
        for backend in ("emulated", "reference"):
            got = matmul(a, b, dtype=want.dtype, backend=backend)
            tally.report.close(f"{name} {backend}", got, want, rtol, atol)


def _check_stochastic(case: Case, report: Report) -> None:
    """The mean of draws is off by at most 6 standard errors, at each value and over all."""
    x, draws = case.tensors["input.x"], case.config["draws"]
    rule = RULES[case.config.get("scale_rule", "static_6")]
    height = 16 if _square(case) else 1
    config = QuantizeConfig(rule=rule, block=(height, 16), rounding="stochastic")
    generator = torch.Generator().manual_seed(case.meta["seed"])
    q = quantize(x.repeat(draws, 1), config, generator=generator)
    mean = q.dequantize().double().view(draws, *x.shape).mean(0)
    scales = q.block_scales[: x.shape[0]].float()
    if (want := case.tensors.get("output.scales_rowmajor_f32")) is not None:
        report.equal("scales", scales, want)
    if (amax := case.tensors.get("output.amax")) is not None:
        report.equal("amax", q.amax, amax.reshape(()))
    unit = scales.double().repeat_interleave(16, 1) * decode_scale(q.amax, config).double()
    ratio = (x.double().abs() / unit).clamp(max=6.0)  # beyond 6 both saturate
    steps = ratio / torch.where(ratio < 2, 0.5, torch.where(ratio < 4, 1.0, 2.0))
    share, step = steps - steps.floor(), ratio / steps.clamp(min=1e-30)
    error = (step * (share * (1 - share) / draws).sqrt() + 1e-6) * unit
    theirs = case.tensors["output.mean_dequant_f32"].double()
    for label, want, of in (("x", ratio * unit * x.sign(), 1.0), ("theirs", theirs, 2**0.5)):
        off = (mean - want) / (6 * of * error)
        report.close(f"mean against {label}", off, torch.zeros_like(off), rtol=0, atol=1.0)
        total = off.sum() / off.numel() ** 0.5
        report.close(f"bias against {label}", total, torch.zeros_like(total), rtol=0, atol=1.0)


def _check_pages(case: Case, tally: Tally) -> None:
    """One block's keys are rows of heads and tokens; the smoothing of fresh keys is not ours."""
    for name, codes in case.tensors.items():
        match = re.fullmatch(rf"output\.({_RULE})\.(\w+)\.block(\d+)\.codes_packed", name)
        if not match:
            continue
        rule, kind, block = match.groups()
        k = case.tensors[f"input.{kind}.k_block{block}"]
        rows = k.flatten(0, 2)
        config, prefix = QuantizeConfig(rule=RULES[rule]), name.removesuffix(".codes_packed")
        blocked = case.tensors.get(f"{prefix}.scales_blocked_e4m3_bytes")
        if blocked is None:
            continue
        scales = unswizzle(blocked.view(torch.float8_e4m3fn), rows.shape[0], rows.shape[1] // 16)
        q = compare(tally, prefix, rows, config, codes, scales)
        _check_codec(tally.report, prefix, k, config)
        if (amax := case.tensors.get(f"{prefix}.amax")) is not None:
            tally.report.equal(f"{prefix} amax", q.amax, amax.reshape(()))
        want = case.tensors.get(f"output.{rule}.{kind}.dequantized")
        if want is not None:
            got = dequantize(q, want.dtype).view(k.shape)
            start = int(block) * k.shape[1]
            rtol = 1e-6 if want.dtype == torch.float32 else 2**-7
            part = want[:, start : start + k.shape[1]]
            tally.report.close(f"{prefix} dequantized", got, part, rtol=rtol, atol=1e-37)


def _check_codec(report: Report, prefix: str, page: Tensor, config: QuantizeConfig) -> None:
    """A page that is written and read back is these rows, quantized and dequantized."""
    codec = NVFP4PageCodec(rule=config.rule, dtype=page.dtype)
    store = codec.allocate(1, tuple(page.shape), page.device)
    codec.write(store, 0, page)
    q = quantize(page.flatten(0, 2), config)
    for name, tensor in codec.tensors(store).items():
        want = q.tensors()[name]
        report.equal(f"{prefix} page {name}", tensor.view(want.shape), want)
    (got,) = codec.read([store], [0], [torch.empty_like(page)])
    report.equal(f"{prefix} page", got, dequantize(q, page.dtype).view(page.shape))


def _check_checkpoint(case: Case, tally: Tally) -> None:
    """The packed weights of a converted model, one of its linears, and its flow."""
    report, prefix = tally.report, "output.nvfp4_state."
    weight, activation = (
        QuantizeConfig(rule=RULES[case.config[f"{side}_scale_rule"]])
        for side in ("weight", "activation")
    )
    model = build(case.config, case.weights).bfloat16()
    names = case.meta["materialised_modules"]
    masters = {name: model.get_submodule(name).weight.detach() for name in names}
    for name, master in masters.items():
        values, factors, amax, metadata = (
            case.tensors.get(f"{prefix}{name}.quantized_weight_{part}")
            for part in ("values", "scale_factors", "amax", "metadata")
        )
        if values is None or factors is None or amax is None or metadata is None:
            continue
        report.equal(f"{name} metadata", metadata.tolist(), [*master.shape, *padded(master).shape])
        rows, cols = values.shape[0], 2 * values.shape[1]
        scales = unswizzle(factors.view(torch.float8_e4m3fn), rows, cols // 16)
        q = compare(tally, name, padded(master), weight, values, scales)
        report.equal(f"{name} amax", q.amax, amax.reshape(()))
    with patch.object(reference, "block_scales", original_scales):
        conversion = convert_linears(model, LinearConfig(weight=weight, activation=activation))
    report.equal("swapped", sorted(conversion.swapped), sorted(names))
    if (want := case.tensors.get("output.linear_ffn0")) is not None:
        name = "blocks.0.ffn.0"
        x, bias = case.tensors["input.linear_x"], case.weights[f"{name}.bias"].bfloat16()
        operands = original_order(x, activation), original_order(masters[name], weight)
        got = matmul(*operands, dtype=want.dtype) + bias
        report.close("linear_ffn0", got, want, rtol=2**-7, atol=float(want.abs().max()) * 2**-9)
        if weight.rule.adaptive:
            report.equal("NVFP4Linear", model.get_submodule(name)(x), got)
    if (want := case.tensors.get("output.flow")) is not None:
        tally.parity = True
        flow, replaced = _flow(case, model)
        report.close("flow", flow, want, rtol=0, atol=5e-2 * float(want.abs().max()))
        calls = {name: one.call_count for name, one in replaced.items()}
        qk_norms = 4 * model.config.num_layers if model.config.qk_norm else 0
        report.equal("norms of the original", calls.pop("rms_norm"), qk_norms)
        idle = [name for name, count in calls.items() if count < model.config.num_layers]
        report.equal("replaced, and not called in every layer", idle, [])


def _flow(case: Case, model: WanTransformer) -> tuple[Tensor, dict[str, Mock]]:
    """The block-causal forward of the bfloat16 model, rounded as often as the original rounds.

    It rounds a product before it adds, and a normalized vector before it scales it, where the model
    does both at once; its attention is in float32. Codes flip on such differences. The functions
    that were replaced for it come back too: they count their calls.
    """
    x, timesteps = case.tensors["input.x"], case.tensors["input.t"]
    samples, _, frames, height, width = x.shape
    tokens = model.config.tokens_per_frame(height, width)
    text = batch(texts(case, "input.context"), model.config.text_len, samples)
    mask = block_causal_mask(frames, tokens, model.config.frames_per_block)
    replaced = {
        "block_scales": (reference, original_scales),
        "addcmul": (torch, lambda a, b, c: a + b * c),
        "rms_norm": (torch.nn.functional, _norm_rounded_twice),
        "attention": (wan_attention, _in_float32(attention)),
        "masked_attention": (wan_attention, _in_float32(masked_attention)),
    }
    counted = {name: Mock(wraps=function) for name, (_, function) in replaced.items()}
    with ExitStack() as patches:
        for name, (place, _) in replaced.items():
            patches.enter_context(patch.object(place, name, counted[name]))
        return model(x, timesteps, text, mask=mask), counted


def _norm_rounded_twice(x: Tensor, size: object, weight: Tensor, eps: float) -> Tensor:
    inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    return (x.float() * inverse).to(x.dtype) * weight


def _in_float32(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def attended(*operands: object, backend: str, **mask: object) -> Tensor:
        return attend(*operands, backend="reference", **mask)

    return attended
