"""The words that users of Diffusers type to load a pipeline, and to change it, in our own.

``LongLivePipeline.from_pretrained(folder, torch_dtype=torch.bfloat16, device_map="cuda")`` works as
it does there. A word, or a method, without a meaning here is refused with what there is instead.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import torch

from longlive_core.checks import shown
from longlive_core.names import did_you_mean


class LoadingWords(TypedDict, total=False):
    """The words of Diffusers that ``from_pretrained`` takes beside its own.

    ``torch_dtype``, or ``dtype``, is ``weights``, ``device_map`` is ``device``. The others say what
    is so here in any case.
    """

    torch_dtype: Any
    dtype: Any
    device_map: Any
    use_safetensors: bool
    low_cpu_mem_usage: bool
    local_files_only: bool


TYPES = {
    torch.bfloat16: "bf16",
    "bfloat16": "bf16",
    torch.float32: "fp32",
    "float32": "fp32",
    "auto": "auto",
}
"""Precisions of weights, by the types that are named for them."""

_ALWAYS = {
    "use_safetensors": "a file is read as what it is",
    "low_cpu_mem_usage": "weights are mapped, and go to the device piece by piece",
    "local_files_only": "nothing touches the network unless download=True is passed",
}
"""Words that may be True and change nothing, each with the reason."""

_WHY_NOT = {
    "variant": "name the file itself, or a folder with one set of weights",
    "revision": "fetch it with `hf download MODEL --revision REVISION`, and name the folder",
    "token": "log in with `hf auth login`",
    "cache_dir": "set HF_HOME for the hub's cache, or name a folder",
    "subfolder": "name that folder",
    "custom_pipeline": "no code of a model is run",
    "trust_remote_code": "no code of a model is run",
    "quantization_config": "pass weights='fp8' or weights='nvfp4', and kv_cache",
    "max_memory": "`longlive plan --max-memory` says which settings keep to it",
    "offload_folder": "offload=True lets blocks wait in the host's memory",
    "scheduler": "pass sampler= and steps= to the pipeline's call",
    "transformer": "make LongLivePipeline(transformer, vae, text, ...) of parts of your own",
}
"""Words of Diffusers that mean nothing here, each with what there is."""

INSTEAD = {
    "enable_model_cpu_offload": "from_pretrained(..., offload=True, text_encoder='offload')",
    "enable_sequential_cpu_offload": "from_pretrained(..., offload=True, text_encoder='offload')",
    "enable_group_offload": "from_pretrained(..., offload=True)",
    "load_lora_weights": "from_pretrained(..., lora=FILE)",
    "set_adapters": "from_pretrained(..., lora=[(FILE, WEIGHT), ...])",
    "fuse_lora": "from_pretrained(..., lora=FILE), which merges it into plain weights",
    "unload_lora_weights": "another from_pretrained(...), without lora",
    "enable_vae_tiling": "from_pretrained(..., vae_tiles=4)",
    "enable_vae_slicing": "from_pretrained(..., vae_latents=1)",
    "enable_attention_slicing": "from_pretrained(..., attention=NAME), of receipts()",
    "enable_xformers_memory_efficient_attention": "from_pretrained(..., attention='xformers')",
    "set_progress_bar_config": "pipe(..., on_step=FUNCTION)",
    "from_single_file": "from_pretrained(FILE)",
    "push_to_hub": "save_pretrained(FOLDER), and `hf upload`",
    "scheduler": "pipe(..., sampler=NAME, steps=NUMBER)",
    "components": "pipe.transformer, pipe.vae and pipe.text",
    "text_encoder": "pipe.text",
    "tokenizer": "pipe.text",
    "unet": "pipe.transformer",
    "compile": "torch.compile(pipe.transformer)",
}
"""Attributes of Diffusers' pipelines, and what there is here instead."""


def where_and_how(words: Mapping[str, Any], device: str, weights: str) -> tuple[str, str]:
    """The device and the precision that are asked for, by this library's words or Diffusers'.

    Raises:
        ValueError: a word that is unknown or means nothing here, a value that cannot be, or two
            names for one setting.
    """
    given = {name: value for name, value in words.items() if value is not None}
    for name, value in given.items():
        _require_known(name)
        if name in _ALWAYS and value is not True:
            raise ValueError(f"{name}={shown(value)} means nothing here: {_ALWAYS[name]}.")
    types = [name for name in ("torch_dtype", "dtype") if name in given]
    if len(types) + (weights != "auto") > 1:
        both = " and ".join([*types, *(["weights"] if weights != "auto" else [])])
        raise ValueError(f"{both} are names of one setting: leave all but one of them out.")
    if types:
        weights = _weights(types[0], given[types[0]])
    if "device_map" in given:
        if device != "auto":
            raise ValueError(
                "device_map and device are names of one setting: leave one of them out."
            )
        device = _device(given["device_map"])
    return device, weights


def missing(name: str) -> str:
    """The message about an attribute that a pipeline has not."""
    instead = INSTEAD.get(name)
    start = f"LongLivePipeline has no attribute {name!r}"
    return start if instead is None else f"{start}: use {instead}."


def _require_known(name: str) -> None:
    if name in LoadingWords.__annotations__:
        return
    if name in _WHY_NOT:
        raise ValueError(f"{name} means nothing here: {_WHY_NOT[name]}.")
    known = [*LoadingWords.__annotations__, *OWN]
    raise ValueError(
        f"from_pretrained(...) has no argument {name!r}{did_you_mean(name, known)}It has "
        f"{', '.join(known)}."
    )


OWN: tuple[str, ...] = (
    "device",
    "quality",
    "weights",
    "kv_cache",
    "attention",
    "lane",
    "linear",
    "strict",
    "vae",
)
OWN += ("vae_latents", "vae_tiles", "lora", "offload", "text_encoder", "download", "group")


def _weights(name: str, value: Any) -> str:
    known = TYPES.get(value) if isinstance(value, str | torch.dtype) else None
    if known is None:
        raise ValueError(
            f"{name}={shown(value)} is no type that a model is computed in here: there are "
            f"torch.bfloat16 and torch.float32. float16 overflows in these models. Use one of "
            f"them, or weights= for fewer bits."
        )
    return known


def _device(value: Any) -> str:
    if isinstance(value, str | torch.device) and not str(value).startswith("balanced"):
        return str(value)
    raise ValueError(
        f"device_map={shown(value)} would spread one model's parts: name one device, such as "
        f"'cuda'. lane='device:cuda:1' lets a second one decode, `longlive generate --nproc 2` "
        f"shares each block."
    )
