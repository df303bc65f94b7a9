"""Group 12: the keys and shapes of the published checkpoints, on models without memory."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from longlive_models.text import UMT5Config, UMT5TextEncoder
from longlive_models.text.checkpoint import transformers_key
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig, WanTransformer
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import RENAMED


def check(case: Case) -> Verdict:
    if "generator_lora_checkpoint" in case.data:
        return Verdict.not_yet("the issue on distillation")
    if "scale_rule" in case.data:
        return Verdict.not_yet("issue 3")
    want = {name: tuple(entry["shape"]) for name, entry in case.data["keys"].items()}
    with torch.device("meta"):
        if "encoder_layers" in case.config:
            got = shapes(text_encoder(case.config).model.state_dict())
            want = {transformers_key(name): shape for name, shape in want.items()}
            got.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
        elif "z_dim" in case.config:
            got = shapes(vae(case.config).state_dict())
        else:
            got = shapes(transformer(case.config).state_dict())
    report = Report(case)
    report.equal("missing keys", sorted(want.keys() - got.keys()), [])
    report.equal("unknown keys", sorted(got.keys() - want.keys()), [])
    for name in want.keys() & got.keys():
        report.equal(name, got[name], want[name])
    return report.verdict()


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def transformer(sizes: Mapping[str, Any]) -> nn.Module:
    values = {RENAMED.get(name, name): value for name, value in sizes.items()}
    known = WanConfig.__dataclass_fields__
    return WanTransformer(WanConfig.from_dict({k: v for k, v in values.items() if k in known}))


def vae(sizes: Mapping[str, Any]) -> nn.Module:
    channels = sizes["z_dim"]
    return WanVAE(
        VAEConfig(
            encoder_dim=sizes["dim"],
            decoder_dim=sizes["dec_dim"],
            latent_channels=channels,
            dim_mult=tuple(sizes["dim_mult"]),
            num_res_blocks=sizes["num_res_blocks"],
            temporal_downsample=tuple(sizes["temperal_downsample"]),
            latent_mean=(0.0,) * channels,
            latent_std=(1.0,) * channels,
        )
    )


def text_encoder(sizes: Mapping[str, Any]) -> UMT5TextEncoder:
    return UMT5TextEncoder(
        UMT5Config(
            vocab_size=sizes["vocab_size"],
            dim=sizes["dim"],
            dim_attn=sizes["dim_attn"],
            dim_ffn=sizes["dim_ffn"],
            num_heads=sizes["num_heads"],
            num_layers=sizes["encoder_layers"],
            num_buckets=sizes["num_buckets"],
        )
    )
