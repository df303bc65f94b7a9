"""A tiny model in the layouts of others: each weight says something, and sizes follow from them."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from longlive_models.published import LONGLIVE_5B, TEXT, TOKENIZER, VAE
from longlive_models.settings import ModelSpec
from longlive_models.text import UMT5Config
from longlive_models.vae import WAN22_VAE, WanVAE
from longlive_models.wan import WanConfig, WanTransformer

SPEC = ModelSpec(
    transformer=WanConfig(
        dim=128,  # one head, as all of Wan's have 128 channels
        ffn_dim=192,
        num_heads=1,
        num_layers=2,
        in_channels=48,
        out_channels=48,
        text_dim=64,
        text_len=512,
        freq_dim=32,
    ),
    vae=replace(WAN22_VAE, encoder_dim=4, decoder_dim=4, num_res_blocks=1),
    settings=LONGLIVE_5B.settings,
)
UMT5 = UMT5Config(vocab_size=12, dim=64, dim_attn=32, dim_ffn=48, num_heads=4, num_layers=2)
PACKABLE = tuple(
    f"blocks.{block}.{name}"
    for block in range(2)
    for name in (
        *(f"self_attn.{one}" for one in "qkvo"),
        *(f"cross_attn.{one}" for one in "qkvo"),
        "ffn.0",
        "ffn.2",
    )
)
"""The layers that programs pack."""


def stirred(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Random values of the same shapes, small enough for a model that runs."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: float(name.endswith("gamma") or ".norm" in name and name.endswith("weight"))
        + 0.5
        * max(tensor[0].numel() if tensor.ndim else 1, 1) ** -0.5
        * torch.randn(tensor.shape, generator=generator)
        for name, tensor in state.items()
    }


def transformer_state() -> dict[str, Tensor]:
    """The transformer's weights by published names, in bfloat16."""
    with torch.device("meta"):
        model = WanTransformer(SPEC.transformer)
    return {name: x.bfloat16() for name, x in stirred(model.state_dict()).items()}


def vae_state() -> dict[str, Tensor]:
    """The VAE's weights by published names, in float32."""
    with torch.device("meta"):
        vae = WanVAE(SPEC.vae)
    return stirred(vae.state_dict())


def text_state() -> dict[str, Tensor]:
    """The text encoder's weights by published names, in bfloat16."""
    c, block = UMT5, {}
    for i in range(c.num_layers):
        block |= {
            f"blocks.{i}.norm1.weight": (c.dim,),
            f"blocks.{i}.norm2.weight": (c.dim,),
            **{f"blocks.{i}.attn.{name}.weight": (c.dim_attn, c.dim) for name in "qkv"},
            f"blocks.{i}.attn.o.weight": (c.dim, c.dim_attn),
            f"blocks.{i}.ffn.gate.0.weight": (c.dim_ffn, c.dim),
            f"blocks.{i}.ffn.fc1.weight": (c.dim_ffn, c.dim),
            f"blocks.{i}.ffn.fc2.weight": (c.dim, c.dim_ffn),
            f"blocks.{i}.pos_embedding.embedding.weight": (c.num_buckets, c.num_heads),
        }
    shapes = {"token_embedding.weight": (c.vocab_size, c.dim), "norm.weight": (c.dim,), **block}
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {name: x.bfloat16() for name, x in stirred(empty).items()}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of words with the ids that the tiny encoder knows."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "blue": 5, "circle": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def write_base(folder: Path) -> None:
    """The base model's files, by their published names."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(vae_state(), folder / VAE)
    torch.save(text_state(), folder / TEXT)
    write_tokenizer(folder / TOKENIZER)


def write_published(folder: Path, name: str = "model_bf16.pt") -> Path:
    """A folder as the original has it; returns the transformer's file."""
    write_base(folder)
    state = {f"model.{key}": value for key, value in transformer_state().items()}
    torch.save({"generator": state, "merged_lora": True, "dtype": "bf16"}, folder / name)
    return folder / name


def write_diffusers(folder: Path) -> Path:
    """A folder that Diffusers and transformers wrote themselves."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
    from transformers import UMT5Config as TheirConfig
    from transformers import UMT5EncoderModel

    from longlive_models.layouts.key_maps import to_diffusers

    c, v, u = SPEC.transformer, SPEC.vae, UMT5
    theirs = WanTransformer3DModel(
        num_attention_heads=c.num_heads,
        attention_head_dim=c.head_dim,
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        text_dim=c.text_dim,
        freq_dim=c.freq_dim,
        ffn_dim=c.ffn_dim,
        num_layers=c.num_layers,
    )
    theirs.load_state_dict(convert_wan_transformer_to_diffusers(dict(transformer_state())))
    theirs.bfloat16().save_pretrained(folder / "transformer")
    vae = AutoencoderKLWan(
        base_dim=v.encoder_dim,
        decoder_base_dim=v.decoder_dim,
        z_dim=v.latent_channels,
        dim_mult=list(v.dim_mult),
        num_res_blocks=v.num_res_blocks,
        temperal_downsample=list(v.temporal_downsample),
        latents_mean=list(v.latent_mean),
        latents_std=list(v.latent_std),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    vae.load_state_dict({to_diffusers("vae", name): x for name, x in vae_state().items()})
    vae.save_pretrained(folder / "vae")
    text = UMT5EncoderModel(
        TheirConfig(
            vocab_size=u.vocab_size,
            d_model=u.dim,
            d_kv=u.dim_attn // u.num_heads,
            d_ff=u.dim_ffn,
            num_heads=u.num_heads,
            num_layers=u.num_layers,
            feed_forward_proj="gated-gelu",
        )
    )
    state = {to_diffusers("text_encoder", name): x for name, x in text_state().items()}
    text.load_state_dict(state | {"encoder.embed_tokens.weight": state["shared.weight"]})
    text.bfloat16().save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "WanPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_comfyui(folder: Path, state: dict[str, Tensor] | None = None, **notes: str) -> Path:
    """The folders of ComfyUI's models; returns the transformer's file."""
    base = transformer_state() if state is None else state
    for name in ("diffusion_models", "vae", "text_encoders"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / "diffusion_models" / "wan2.2_ti2v_5B.safetensors"
    save_file({f"model.diffusion_model.{k}": v for k, v in base.items()}, path, metadata=notes)
    save_file(vae_state(), folder / "vae" / "wan2.2_vae.safetensors")
    from longlive_models.layouts.key_maps import to_diffusers

    text = {str(to_diffusers("text_encoder", k)): v for k, v in text_state().items()}
    text["spiece_model"] = torch.zeros(8, dtype=torch.uint8)
    save_file(text, folder / "text_encoders" / "umt5_xxl_fp16.safetensors")
    write_tokenizer(folder / "tokenizer")
    return path


def scaled_fp8(state: dict[str, Tensor], *, newer: bool = False) -> dict[str, Tensor]:
    """Block linears in FP8 with a scale each, as ComfyUI's files have them."""
    out = dict(state)
    for name in PACKABLE:
        weight = state[f"{name}.weight"].float()
        scale = weight.abs().max() / 448
        out[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
        if newer:
            out[f"{name}.weight_scale"] = scale
            note = b'{"format": "float8_e4m3fn"}'
            out[f"{name}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
        else:
            out[f"{name}.scale_weight"] = scale
            out[f"{name}.scale_input"] = torch.ones(())
    if not newer:
        out["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return out
