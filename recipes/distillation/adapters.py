"""Student, critic and teacher on frozen bases: adapters of two, and what is the same held once."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longlive_core.nvfp4 import LinearConfig, convert_linears
from longlive_models.checkpoints.nvfp4 import decode_state
from longlive_models.lora import LoRALinear, adapters, add_lora, load_lora
from longlive_models.lora_config import LoRAConfig
from longlive_models.wan import WanTransformer
from longlive_recipes.distillation.twins import twin

LORA = "lora"
"""The folder of a run with the student's adapter by itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedBase:
    """Three networks; frozen weights that are the same are the same tensors.

    Attributes:
        student, critic: with adapters, which train.
        teacher: without.
    """

    student: WanTransformer
    critic: WanTransformer
    teacher: WanTransformer


def share_base(
    base: WanTransformer,
    config: LoRAConfig,
    *,
    kept: str,
    student: str | None = None,
    teacher: WanTransformer | None = None,
) -> SharedBase:
    """Make three networks of one or two, in place; adapters are float32 and begin as nothing.

    Args:
        base: below the student's adapters, and the teacher if there is no other.
        config: of both adapters.
        kept: "fp32", "bf16" or "nvfp4": in what frozen weights are held.
        student: an adapter's folder that the student begins with.
        teacher: one of other weights than ``base``; the critic's adapters are beside it.

    Raises:
        ValueError: no linear is a target, or the student's adapter is of another model or config.
    """
    _freeze(base, kept)
    if teacher is None:
        teacher = twin(base)
        add_lora(base, config)
        critic = twin(base)
        for _, layer in adapters(critic):
            for part in (layer.lora_A, layer.lora_B):
                part.requires_grad_(True)
    else:
        _freeze(teacher, kept)
        critic, teacher = teacher, twin(teacher)
        for network in (base, critic):
            add_lora(network, config)
    if student is not None:
        load_lora(base, student, config=config)
    return SharedBase(student=base, critic=critic.train(), teacher=teacher)


def _freeze(base: WanTransformer, kept: str) -> None:
    """Hold a network in fp32, bf16 or nvfp4, where it trains no more."""
    base.requires_grad_(False)
    if kept == "nvfp4":
        convert_linears(base, LinearConfig())
        base.requires_grad_(False)
    elif kept == "bf16":
        base.to(torch.bfloat16)


def only_adapters(model: nn.Module) -> nn.Module:
    """A module that holds a model's adapters alone, under the names that they have in it."""
    kept = nn.Module()
    for name, layer in adapters(model):
        for part in ("lora_A", "lora_B"):
            holder = kept
            for step in name.split("."):
                if not hasattr(holder, step):
                    holder.add_module(step, nn.Module())
                holder = holder.get_submodule(step)
            holder.add_module(part, layer.get_submodule(part))
    return kept


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights with its adapters added in, under the names of a model without; float32."""
    found = dict(adapters(model))
    inside = tuple(f"{name}." for name in found)
    rest = {
        name: tensor for name, tensor in model.state_dict().items() if not name.startswith(inside)
    }
    return {
        **decode_state(rest, torch.float32),
        **{
            f"{name}.{part}": tensor
            for name, layer in found.items()
            for part, tensor in _merged(layer).items()
        },
    }


@torch.no_grad()
def _merged(layer: LoRALinear) -> dict[str, Tensor]:
    base = layer.base_layer
    assert isinstance(base, nn.Linear)
    tensors = {"weight": base.weight.float() + layer.delta}
    return tensors if base.bias is None else {**tensors, "bias": base.bias.float()}
