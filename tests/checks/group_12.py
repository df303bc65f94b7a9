"""Group 12: the keys and shapes of the published checkpoints, on models without memory."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from longlive_core.nvfp4 import CONVENTIONS, NVFP4Tensor, QuantizeConfig, plan_conversion
from longlive_models.lora import LoRAConfig, add_lora, lora_state_dict
from longlive_models.text import UMT5Config, UMT5TextEncoder
from longlive_models.text.checkpoint import transformers_key
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig, WanTransformer
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import RENAMED


def check(case: Case) -> Verdict:
    if "generator_lora_checkpoint" in case.data:
        return _check_lora(case)
    if "scale_rule" in case.data:
        return _check_packed(case)
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


def _check_packed(case: Case) -> Verdict:
    """Which linears are packed, and the names, shapes and types of the packed file."""
    want = case.data["keys_after_drop_master"]
    with torch.device("meta"):
        model = of_shapes({name: entry["shape"] for name, entry in want.items()}).bfloat16()
    report = Report(case)
    packed = plan_conversion(model).swapped
    report.equal("packed modules", list(packed), case.data["materialised_modules"])
    state = dict(model.state_dict())
    for name in packed:
        weight = state.pop(f"{name}.weight")
        rows, cols = weight.shape
        q = NVFP4Tensor(
            codes=torch.empty(rows, cols // 2, dtype=torch.uint8, device="meta"),
            block_scales=torch.empty(rows, cols // 16, dtype=torch.float8_e4m3fn, device="meta"),
            amax=torch.empty((), device="meta"),
            config=QuantizeConfig(),
            shape=(rows, cols),
        )
        written = CONVENTIONS["longlive"].write(q)
        state |= {f"{name}.{key}": tensor for key, tensor in written.items()}
    got = {
        name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in state.items()
    }
    report.equal("names, shapes and types", got, want)
    return report.verdict()


def _check_lora(case: Case) -> Verdict:
    """Names and shapes of the adapters: in their file, in the wrapped model, among what trains."""
    prefix, data = "base_model.model.", case.data
    plain = {
        name.removeprefix(prefix).replace(".base_layer.", "."): shape
        for name, shape in data["wrapped_model_state_dict"].items()
        if ".lora_" not in name
    }
    with torch.device("meta"):
        model = of_shapes(plain)
        add_lora(model, LoRAConfig.from_peft(data["peft_config"]))
    report = Report(case)
    file = {name: list(tensor.shape) for name, tensor in lora_state_dict(model).items()}
    report.equal("file", file, data["generator_lora_checkpoint"])
    wrapped = {prefix + _named(k): list(v.shape) for k, v in model.state_dict().items()}
    report.equal("wrapped model", wrapped, data["wrapped_model_state_dict"])
    trained = {
        prefix + _named(name): list(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    report.equal("trained", trained, data["trainable_parameters"])
    return report.verdict()


def _named(key: str) -> str:
    """As PEFT has it in memory, with the adapter's own name."""
    return key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")


def of_shapes(shapes: Mapping[str, Any]) -> WanTransformer:
    """The transformer whose tensors have these shapes; heads leave no trace in them."""
    dim, channels, *patch = shapes["patch_embedding.weight"]
    layers = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    return WanTransformer(
        WanConfig(
            dim=dim,
            ffn_dim=shapes["blocks.0.ffn.0.bias"][0],
            num_heads=1,
            num_layers=len(layers),
            in_channels=channels,
            out_channels=shapes["head.head.bias"][0] // (patch[1] * patch[2]),
            text_dim=shapes["text_embedding.0.weight"][1],
            text_len=1,
            freq_dim=shapes["time_embedding.0.weight"][1],
            patch_size=(patch[0], patch[1], patch[2]),
        )
    )


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
    assert not sizes.get("shared_pos", False), "UMT5 has positions of its own in each layer"
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
