"""Group 8: the UMT5 encoder, its relative positions and its zeroed padding."""

from typing import Any

import torch
from torch import Tensor

from longlive_models.text import UMT5Config, UMT5TextEncoder, load_published
from longlive_models.text.encoder import zero_padding
from tests.checks.framework import Case, Report, Verdict

SIZES = ("vocab_size", "dim", "dim_attn", "dim_ffn", "num_heads", "encoder_layers", "num_buckets")


def check(case: Case) -> Verdict:
    report, tensors, sizes = Report(case), case.tensors, case.config
    sizes.use(*SIZES)  # no encoder is built where only buckets are compared
    with torch.no_grad():
        if "input.ids" in tensors:
            ids, mask = tensors["input.ids"], tensors["input.mask"].bool()
            weights = dict(case.weights)
            if sizes.get("shared_pos", False):
                bias = weights.pop("pos_embedding.embedding.weight")
                for layer in range(sizes["encoder_layers"]):
                    weights[f"blocks.{layer}.pos_embedding.embedding.weight"] = bias.clone()
            encoder = _encoder(sizes, weights, ids.shape[1])
            everything = torch.ones_like(mask)
            context = encoder(ids, mask)
            got = {
                "context": context,
                "context_no_mask": encoder(ids, everything),
                "prompt_embeds_zeroed": zero_padding(context, mask, ids.shape[1]),
                "pos_bias_block0": _attention(encoder).compute_bias(ids.shape[1], ids.shape[1]),
            }
            for name, value in got.items():
                if f"output.{name}" in tensors:
                    report.close(name, value, tensors[f"output.{name}"], rtol=1e-4, atol=1e-5)
            if (want := tensors.get("output.context_bf16")) is not None:
                exact = tensors.get("output.context", context)
                low = encoder.to(torch.bfloat16)(ids, mask)
                check_rounded(report, "context_bf16", low, want, exact)
        if "input.relative_positions" in tensors:
            _check_buckets(report, tensors)
    return report.verdict()


def check_rounded(report: Report, name: str, got: Tensor, want: Tensor, exact: Tensor) -> None:
    """In low precision both are as far from float32 as rounding takes them, each its own way.

    So their distance is measured with the original's own distance, over all numbers: the worst of
    thousands says little. Two independent errors of one size lie sqrt(2) of it apart.
    """
    assert got.dtype == want.dtype, name
    own = (want.double() - exact.double()).square().mean().sqrt()
    apart = (got.double() - want.double()).square().mean().sqrt()
    report.close(f"{name}: rms over the original's own", apart / own, torch.zeros(()), 0.0, 2.0)


def _encoder(sizes: dict[str, Any], weights: dict[str, Tensor], length: int) -> UMT5TextEncoder:
    encoder = UMT5TextEncoder(
        UMT5Config(
            vocab_size=sizes["vocab_size"],
            dim=sizes["dim"],
            dim_attn=sizes["dim_attn"],
            dim_ffn=sizes["dim_ffn"],
            num_heads=sizes["num_heads"],
            num_layers=sizes["encoder_layers"],
            num_buckets=sizes["num_buckets"],
            text_len=length,
        )
    )
    load_published(encoder, weights)
    return encoder


def _attention(encoder: UMT5TextEncoder) -> torch.nn.Module:
    return encoder.model.encoder.block[0].layer[0].SelfAttention


def _check_buckets(report: Report, tensors: dict[str, Tensor]) -> None:
    """The bucket of each relative position (key - query), for each listed number of buckets.

    With the bucket's number as its bias, the bias of a query and a key is their bucket.
    """
    relative = tensors["input.relative_positions"]
    span = int(relative.abs().max()) + 1
    for name, want in tensors.items():
        if name.startswith("output.relative_buckets_"):
            buckets = int(name.rsplit("_", 1)[1])
            one = {"dim": 1, "dim_attn": 1, "dim_ffn": 1, "num_heads": 1, "num_layers": 1}
            config = UMT5Config(vocab_size=2, num_buckets=buckets, **one)
            attention = _attention(UMT5TextEncoder(config))
            numbers = torch.arange(buckets, dtype=torch.float32)[:, None]
            attention.relative_attention_bias.weight.copy_(numbers)
            table = attention.compute_bias(span, span)[0, 0]
            got = table[(-relative).clamp(min=0), relative.clamp(min=0)]
            report.equal(name, got.to(want.dtype), want)
