"""Writing a pipeline to a model folder, as ``save_pretrained`` does."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from longlive_core import nvfp4
from longlive_models.checkpoints.folder import save_part
from longlive_models.checkpoints.nvfp4 import KEY, PackedConfig
from longlive_models.lora import adapters
from longlive_models.parts import PARTS
from longlive_models.settings import write_index
from longlive_models.wan import WanTransformer

if TYPE_CHECKING:
    from longlive_models.video_maker import VideoMaker


def save_pipeline(pipe: "VideoMaker", folder: Path) -> Path:
    """Write the parts and the settings of a pipeline to a new folder.

    Raises:
        ValueError: the folder exists, a part has no form in a folder, or ranks share the model.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists: a model is written to a new folder. Name another.")
    if pipe.sp.group.size > 1:
        raise ValueError(
            f"each of {pipe.sp.group.size} ranks holds a share of the model: save it where it is "
            f"loaded on one rank."
        )
    beside = [name for name, _ in adapters(pipe.transformer)]
    if beside:
        raise ValueError(
            f"{len(beside)} linears have adapters beside their weights, such as {beside[0]}: a "
            f"model folder holds weights alone. Fuse them first (longlive_models.lora.fuse_lora), "
            f"or save_lora them by themselves."
        )
    parts = {"transformer": pipe.transformer, "vae": pipe.vae, "text_encoder": pipe.text}
    configs = {name: _config(name, part) for name, part in parts.items()}
    try:
        for name, config in configs.items():
            part = parts[name]
            assert isinstance(part, nn.Module)
            save_part(folder / name, config, part.state_dict())
        write_index(folder, pipe.settings)
    except BaseException:  # a part of a model is no model
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _config(name: str, part: Any) -> dict[str, Any]:
    """The config of a part's folder. Raises ValueError for a part that has no such folder."""
    kind = type(part).__name__
    if kind not in PARTS[name] or not isinstance(part, nn.Module):
        known = ", ".join(PARTS[name])
        raise ValueError(
            f"the {name} is a {kind}, and a model folder holds {known}: it cannot be written as "
            f"one. Keep its own files, and name them where the model is loaded."
        )
    config: dict[str, Any] = dict(vars(part)["config"].to_dict())
    if isinstance(part, WanTransformer):
        config |= _quantization(part)
    return config


def _quantization(transformer: WanTransformer) -> dict[str, Any]:
    """The entry that says how linears are packed; empty if all are plain."""
    if beside := next((name for name, _ in adapters(transformer)), None):
        raise ValueError(
            f"{beside} has an adapter beside its packed weight, and a model folder holds none: the "
            f"two cannot become one weight without a loss. Load the model with weights='bf16', "
            f"into which adapters are merged, and save that."
        )
    packed = [one for one in transformer.modules() if isinstance(one, nvfp4.NVFP4Linear)]
    if packed:
        first = packed[0]
        return {
            KEY: PackedConfig(
                weight=first.config.weight, activation=first.config.activation
            ).to_dict()
        }
    other = {type(one).__name__ for one in transformer.modules()} & {"Float8Linear"}
    if other:
        raise ValueError(
            "weights in FP8 are made of plain ones while a model is loaded, and have no files: "
            "load it with weights='bf16' or 'nvfp4', and save that."
        )
    return {}
