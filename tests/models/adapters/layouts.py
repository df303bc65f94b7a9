"""An adapter under the keys of every layout.

PEFT's files are made by PEFT itself in ``test_reading.py``. The others follow what their programs
document: kohya's (musubi-tuner) ``lora_unet_`` with underscores, ``lora_down``, ``lora_up`` and
``alpha``; ComfyUI's ``diffusion_model.``; Diffusers' ``transformer.`` with its own names of
modules; LightX2V's table of ``lora_down``, ``lora_up``, ``diff``, ``diff_b`` and ``diff_m``.
"""

import torch
from torch import Tensor

from longlive_models.adapters import Adapter, Matrices
from longlive_models.layouts.key_maps import to_diffusers
from longlive_models.wan import WanTransformer
from tests.models.tiny_pipeline import SPEC

LINEARS = (
    "blocks.0.self_attn.q",
    "blocks.1.cross_attn.o",
    "blocks.1.ffn.0",
    "time_projection.1",
    "head.head",
)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> WanTransformer:
    torch.manual_seed(seed)
    model = WanTransformer(SPEC.transformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval().requires_grad_(False)


def adapter(
    *, rank: int = 3, alpha: float = 6.0, seed: int = 1, names: tuple[str, ...] = LINEARS
) -> Adapter:
    generator, model = torch.Generator().manual_seed(seed), tiny_model()
    made = {}
    for name in names:
        linear = model.get_submodule(name)
        down = torch.randn(rank, linear.in_features, generator=generator) / 4
        up = torch.randn(linear.out_features, rank, generator=generator) / 4
        made[name] = Matrices(down=down, up=up, alpha=alpha)
    return Adapter(matrices=made)


def in_layout(one: Adapter, layout: str) -> dict[str, Tensor]:
    """The tensors of a file in a layout."""
    found: dict[str, Tensor] = {}
    for name, pair in one.matrices.items():
        alpha = torch.tensor(pair.alpha)
        match layout:
            case "kohya":
                key = f"lora_unet_{name.replace('.', '_')}"
                found[f"{key}.lora_down.weight"] = pair.down
                found[f"{key}.lora_up.weight"] = pair.up
                found[f"{key}.alpha"] = alpha
            case "comfyui":
                found[f"diffusion_model.{name}.lora_A.weight"] = pair.down
                found[f"diffusion_model.{name}.lora_B.weight"] = pair.up
                found[f"diffusion_model.{name}.alpha"] = alpha
            case "comfyui down":
                found[f"diffusion_model.{name}.lora_down.weight"] = pair.down
                found[f"diffusion_model.{name}.lora_up.weight"] = pair.up
                found[f"diffusion_model.{name}.alpha"] = alpha
            case "diffusers":
                own = to_diffusers("transformer", f"{name}.weight").removesuffix(".weight")
                found[f"transformer.{own}.lora_A.weight"] = pair.down
                found[f"transformer.{own}.lora_B.weight"] = pair.up * pair.scale
            case "lightx2v":
                found[f"{name}.lora_down.weight"] = pair.down
                found[f"{name}.lora_up.weight"] = pair.up * pair.scale
            case "peft":
                found[f"base_model.model.{name}.lora_A.weight"] = pair.down
                found[f"base_model.model.{name}.lora_B.weight"] = pair.up * pair.scale
    return found


LAYOUTS = ("kohya", "comfyui", "comfyui down", "diffusers", "lightx2v", "peft")


def product(one: Adapter, name: str) -> Tensor:
    pair = one.matrices[name]
    return pair.scale * (pair.up.double() @ pair.down.double())
