"""What each rank does with a foreign model: its part of the work, and the gradients of it."""

import runpy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from tests.ecosystem.foreign import MODELS, drawn
from tests.ecosystem.formats import w4a4

EXAMPLES = Path(__file__).parents[2] / "examples"


def communicator(process_group: dist.ProcessGroup, frames: int, tokens: int) -> BalancedSP:
    group = SequenceGroup.of(process_group)
    partition = BalancedPartition(
        frames=frames, ranks=group.size, tokens_per_frame=tokens, copies=1
    )
    return BalancedSP(group, partition, heads=4)


def compared(
    sp: BalancedSP, plain: nn.Module, shared: nn.Module, want: Tensor, own: Tensor, dim: int
) -> dict[str, float]:
    """Largest differences of outputs and of parameters' gradients, summed over the ranks."""
    weight = drawn(*want.shape, seed=5)
    (want * weight).sum().backward()
    (own * sp.shard(weight, dim)).sum().backward()
    errors = {"output": float((sp.gather(own, dim) - want).abs().max())}
    trained = dict(shared.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            other = trained[name].grad
            got = sp.group.sum(torch.zeros_like(parameter) if other is None else other)
            scale = float(parameter.grad.abs().max()) + 1e-6
            errors[name] = float((got - parameter.grad).abs().max()) / scale
    return errors


def wan(process_group: dist.ProcessGroup) -> dict[str, float]:
    """Four frames of 16 tokens; every rank holds the text."""
    foreign, sp = MODELS["Wan"], communicator(process_group, 4, 16)
    plain, shared = foreign.built(), foreign.built()
    runpy.run_path(str(EXAMPLES / "diffusers_wan_over_ranks.py"))["share"](shared, sp)
    inputs = foreign.inputs()
    latents = sp.shard(inputs.pop("hidden_states"), 2)
    own = shared(latents, **inputs, return_dict=False)[0]
    return compared(sp, plain, shared, foreign.run(plain), own, 2)


def wan_in_four_bits(process_group: dist.ProcessGroup) -> float:
    """How far W4A4 over ranks, with one scale of activations for all of them, is from one rank."""
    foreign, sp = MODELS["Wan"], communicator(process_group, 4, 16)
    plain, shared = foreign.built(), foreign.built()
    w4a4(plain)
    w4a4(shared, reduce_amax=sp.max_over_group)
    runpy.run_path(str(EXAMPLES / "diffusers_wan_over_ranks.py"))["share"](shared, sp)
    inputs = foreign.inputs()
    latents = sp.shard(inputs.pop("hidden_states"), 2)
    with torch.no_grad():
        want = foreign.run(plain)
        got = sp.gather(shared(latents, **inputs, return_dict=False)[0], 2)
    return float((got - want).norm() / want.norm())


def flux(process_group: dist.ProcessGroup) -> dict[str, float]:
    """Four rows of an image of 4 x 4 tokens, together with a text of eight."""
    foreign, sp = MODELS["Flux"], communicator(process_group, 4, 4)
    plain, shared = foreign.built(), foreign.built()
    example: dict[str, Any] = runpy.run_path(str(EXAMPLES / "joint_attention_over_ranks.py"))
    shared.set_attn_processor(example["JointAttention"](sp))
    inputs = foreign.inputs()

    def rows(x: Tensor, dim: int) -> Tensor:
        return sp.shard(x.unflatten(dim, (4, 4)), dim).flatten(dim, dim + 1)

    inputs["hidden_states"] = rows(inputs["hidden_states"], 1)
    inputs["img_ids"] = rows(inputs["img_ids"], 0)
    own = shared(**inputs, return_dict=False)[0].unflatten(1, (-1, 4))
    want = foreign.run(plain).unflatten(1, (4, 4))
    return compared(sp, plain, shared, want, own, 1)
