"""Writing parts of a model into files and folders of a layout: configs, indexes and weights."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from longlive_models.checkpoints.hub import FOREIGN_TRANSFORMER, INDEX, PUBLISHED_WEIGHTS
from longlive_models.checkpoints.nvfp4 import KEY, PUBLISHED_FORMAT, PUBLISHED_RULES, PackedConfig
from longlive_models.layouts.gguf_files import write_gguf
from longlive_models.layouts.part_files import CONFIG, PartFile
from longlive_models.layouts.sizes import transformer_config, umt5_config, vae_config
from longlive_models.layouts.targets import (
    convention_entries,
    convention_note,
    gguf_tensors,
    in_diffusers_names,
    own_entries,
    plain_entries,
    scaled_fp8_entries,
)
from longlive_models.layouts.writing import (
    Progress,
    write_folder,
    write_pickle,
    write_safetensors,
)
from longlive_models.settings import GenerationSettings, write_index

PICKLED = {
    "transformer": PUBLISHED_WEIGHTS[0],
    "vae": "Wan2.2_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
}
COMFYUI = {
    "transformer": "diffusion_models/wan2.2_ti2v_5B.safetensors",
    "vae": "vae/wan2.2_vae.safetensors",
    "text_encoder": "text_encoders/umt5_xxl_bf16.safetensors",
}
TOKENIZERS = {
    "published": "google/umt5-xxl",
    "diffusers": "tokenizer",
    "comfyui": "tokenizer",
    "longlive": "text_encoder/tokenizer",
}
"""By layout, the folder of the text encoder's tokenizer."""

_CONVENTIONS = {
    "comfyui-nvfp4": "comfyui",
    "torchao": "torchao",
    "modelopt": "modelopt",
    "compressed-tensors": "compressed_tensors",
    "mlx": "mlx",
    "transformer-engine": "transformer_engine",
}
_SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 5.0,
    "solver_order": 2,
    "solver_type": "bh2",
}


def write_file(
    path: Path,
    part: PartFile,
    layout: str,
    *,
    dtype: torch.dtype | None,
    swizzled: bool | None,
    progress: Progress | None,
) -> None:
    """Write one part as a file in a layout. Raises ValueError for what the layout cannot hold."""
    sizes = {CONFIG: json.dumps(own_config(part))} if part.part != "text_encoder" else {}
    if layout == "published":
        write_pickle(path, _published(part, dtype), _holder(part, sizes), progress)
    elif layout == "published-nvfp4":
        named = convention_entries(part, "longlive", None, dtype)
        named = [(f"model.{name}", entry) for name, entry in named]
        write_pickle(path, named, {**_packed_holder(part), **sizes}, progress)
    elif layout.startswith("gguf"):
        kind = {"gguf": "", "gguf-q8_0": "Q8_0", "gguf-nvfp4": "NVFP4"}[layout]
        notes = convention_note(part, "gguf", None) if kind == "NVFP4" else {}
        write_gguf(path, list(gguf_tensors(part, kind)), {**notes, **sizes}, progress)
    elif layout == "comfyui":
        named = plain_entries(part, dtype)
        if part.part == "text_encoder":
            named = in_diffusers_names(part, named, part.path)
        write_safetensors(path, named, sizes, progress)
    elif layout == "comfyui-fp8":
        write_safetensors(path, scaled_fp8_entries(part, dtype), sizes, progress)
    else:
        convention = _CONVENTIONS[layout]
        named = convention_entries(part, convention, swizzled, dtype)
        notes = convention_note(part, convention, swizzled)
        write_safetensors(path, named, {**notes, **sizes}, progress)


def write_part(
    folder: Path,
    part: PartFile,
    layout: str,
    *,
    dtype: torch.dtype | None,
    progress: Progress | None,
) -> None:
    """Write one part into the folder of a model in a layout that is a folder."""
    if layout in ("published", "comfyui"):
        path = folder / (PICKLED if layout == "published" else COMFYUI)[part.part]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, part, layout, dtype=dtype, swizzled=None, progress=progress)
        return
    inside = folder / part.part
    inside.mkdir(parents=True)
    if layout == "diffusers":
        stem = "model" if part.part == "text_encoder" else "diffusion_pytorch_model"
        named = in_diffusers_names(part, plain_entries(part, dtype), part.path)
        config = _diffusers_config(part)
    else:
        stem, named, config = "model", own_entries(part, dtype), own_config(part)
    (inside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_folder(inside, named, stem, progress)


def finish_folder(
    folder: Path, parts: Mapping[str, PartFile], layout: str, tokenizer: Path | None
) -> None:
    """Write what a whole model has beside its weights: the index, and the tokenizer."""
    if tokenizer is not None and "text_encoder" in parts:
        shutil.copytree(tokenizer, folder / TOKENIZERS[layout])
    whole = set(parts) == {"transformer", "vae", "text_encoder"}
    if layout == "longlive" and whole:
        settings = GenerationSettings(height=704, width=1280, fps=24.0, steps=4)
        write_index(folder, settings, text_encoder=["longlive_models", "UMT5TextEncoder"])
    if layout == "diffusers" and whole:
        (folder / "scheduler").mkdir()
        scheduler = json.dumps(_SCHEDULER, indent=2) + "\n"
        (folder / "scheduler" / "scheduler_config.json").write_text(scheduler)
        index = {
            "_class_name": "WanPipeline",
            "expand_timesteps": True,
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", FOREIGN_TRANSFORMER],
            "transformer_2": [None, None],
            "vae": ["diffusers", "AutoencoderKLWan"],
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def own_config(part: PartFile) -> dict[str, Any]:
    """The config of a part in this library's folders, from the shapes of its weights."""
    own = part.config
    if part.part == "vae":
        return vae_config(part.shapes, own, part.path).to_dict()
    if part.part == "text_encoder":
        return asdict(umt5_config(part.shapes, part.config, part.path))
    values = transformer_config(part.shapes, own, part.path).to_dict()
    packed = part.packed_config()
    return values if packed is None else {**values, KEY: packed.to_dict()}


def _published(part: PartFile, dtype: torch.dtype | None) -> Any:
    before = "model." if part.part == "transformer" else ""
    return [(f"{before}{name}", entry) for name, entry in plain_entries(part, dtype)]


def _holder(part: PartFile, sizes: Mapping[str, str]) -> Mapping[str, object] | None:
    if part.part != "transformer":
        return None
    kind = "longlive_generator_merged_bf16"
    return {"checkpoint_format": kind, "checkpoint_version": 1, **sizes}


def _packed_holder(part: PartFile) -> Mapping[str, object]:
    packed = part.packed_config()
    assert isinstance(packed, PackedConfig)
    usual = type(packed.weight)(rule=packed.weight.rule, block=packed.weight.block)
    if packed.weight.largest_scale != usual.largest_scale:
        raise ValueError(
            f"the original's packed file has no word for a bound of {packed.weight.largest_scale} "
            f"with {packed.weight.rule.value}: quantize with {usual.largest_scale}."
        )
    names = {rule: name for name, rule in PUBLISHED_RULES.items()}
    quantization = {
        "format": "nvfp4",
        "backend": "fouroversix",
        "materialized": True,
        "weight_scale_rule": names[packed.weight.rule],
    }
    return {
        "checkpoint_format": PUBLISHED_FORMAT,
        "checkpoint_version": 1,
        "quantization": quantization,
    }


def _diffusers_config(part: PartFile) -> dict[str, Any]:
    if part.part == "transformer":
        c = transformer_config(part.shapes, part.config, part.path)
        return {
            "_class_name": FOREIGN_TRANSFORMER,
            "patch_size": list(c.patch_size),
            "num_attention_heads": c.num_heads,
            "attention_head_dim": c.head_dim,
            "in_channels": c.in_channels,
            "out_channels": c.out_channels,
            "text_dim": c.text_dim,
            "freq_dim": c.freq_dim,
            "ffn_dim": c.ffn_dim,
            "num_layers": c.num_layers,
            "cross_attn_norm": c.cross_attn_norm,
            "qk_norm": "rms_norm_across_heads" if c.qk_norm else None,
            "eps": c.eps,
            "rope_max_seq_len": 1024,
        }
    if part.part == "vae":
        v = vae_config(part.shapes, part.config, part.path)
        return {
            "_class_name": "AutoencoderKLWan",
            "base_dim": v.encoder_dim,
            "decoder_base_dim": v.decoder_dim,
            "z_dim": v.latent_channels,
            "dim_mult": list(v.dim_mult),
            "num_res_blocks": v.num_res_blocks,
            "attn_scales": [],
            "temperal_downsample": list(v.temporal_downsample),
            "dropout": 0.0,
            "latents_mean": list(v.latent_mean),
            "latents_std": list(v.latent_std),
            "is_residual": True,
            "in_channels": v.patch_channels,
            "out_channels": v.patch_channels,
            "patch_size": v.patch_size,
            "scale_factor_temporal": v.temporal_stride,
            "scale_factor_spatial": v.spatial_stride,
        }
    u = umt5_config(part.shapes, part.config, part.path)
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "vocab_size": u.vocab_size,
        "d_model": u.dim,
        "d_kv": u.dim_attn // u.num_heads,
        "d_ff": u.dim_ffn,
        "num_heads": u.num_heads,
        "num_layers": u.num_layers,
        "relative_attention_num_buckets": u.num_buckets,
        "relative_attention_max_distance": u.max_distance,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": False,
    }
