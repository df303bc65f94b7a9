"""Group 10: one video over several ranks, in training and in generation, on gloo processes."""

import re
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from longlive_models.objectives import block_causal_mask, teacher_forcing_mask
from longlive_models.wan import ParallelTransformer, WanTransformer
from longlive_models.wan.rope import rotate, rotation
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import RENAMED, SHARED, build, sizes, tolerance
from tests.processes import Ranks

LOSS_RTOL, GRAD_RTOL, GRAD_ATOL = 1e-5, 1e-3, 1e-6

READ_ON_RANKS = {
    *RENAMED,
    *SHARED,
    "frame_tokens",
    "local_window_frames",
    "sink_frames",
    "global_sink_frames",
    "scene_cut_blocks",
    "rope_offset_per_shot",
}
"""Settings that processes of their own read."""


def check(case: Case) -> Verdict:
    report = Report(case)
    case.config.use(*READ_ON_RANKS)
    on_ranks = generate if "input.noisy" in case.tensors else train
    counts = {int(m[1]) for key in case.tensors if (m := re.match(r"output\.sp(\d+)\.", key))}
    with Ranks(max(counts)) as ranks:
        for count in sorted(counts | {1}):
            for rank, results in enumerate(ranks(count, on_ranks, case)):
                _compare(report, f"sp{count}", f"sp{count}.rank{rank}", results)
    return report.verdict()


def _compare(report: Report, of_all: str, of_one: str, results: dict[str, Tensor]) -> None:
    """Compare what a rank made with what the case has of that name, for it or for all ranks."""
    rtol, atol = tolerance(report.case)
    for name, got in results.items():
        for owner in (of_all, of_one):
            want = report.case.tensors.get(f"output.{owner}.{name}")
            if want is None:
                continue
            if not want.is_floating_point():
                report.equal(f"{of_one}.{name}", got, want)
            elif name.startswith("grad"):
                report.close(f"{of_one}.{name}", got, want, GRAD_RTOL, GRAD_ATOL)
            elif name.startswith("loss"):
                report.close(f"{of_one}.{name}", got, want, LOSS_RTOL, 0.0)
            else:
                report.close(f"{of_one}.{name}", got, want, rtol, atol)


def train(process_group: dist.ProcessGroup, case: Case) -> dict[str, Tensor]:
    """Balanced SP: layout, positions, mask, velocities, losses and gradients of this rank."""
    group, config = SequenceGroup.of(process_group), sizes(case.config)
    noisy, clean, target, timesteps = (
        case.tensors[f"input.{name}"] for name in ("noisy_x", "clean_x", "target", "t")
    )
    batch, _, frames, height, width = noisy.shape
    tokens = config.tokens_per_frame(height, width)
    layout = {
        "frames": frames,
        "ranks": group.size,
        "tokens_per_frame": tokens,
        "frames_per_block": config.frames_per_block,
    }
    sp = BalancedSP(group, BalancedPartition(**layout), heads=config.num_heads)
    model = build(case.config, case.weights, exchange=sp)
    prompts = case.tensors["input.context"].unflatten(0, (batch, -1))
    how = {
        "timesteps": sp.shard(timesteps, 1),
        "text": sp.shard_blocks(prompts, 1) if prompts.shape[1] > 1 else prompts,
    }
    positions = torch.arange(frames).double()
    offset = case.tensors["input.rope_temporal_offset"]
    mask = teacher_forcing_mask(
        frames, tokens, config.frames_per_block, order=sp.partition.frame_order
    )
    results = _layout(sp, config.num_heads, mask.dense(torch.device("cpu")))
    for name, where in (("", positions), ("_offset", positions + offset)):
        own = sp.shard(where, -1)
        flow = model(sp.shard(noisy, 2), **how, positions=own, mask=mask, clean=sp.shard(clean, 2))
        results[f"flow{name}"] = flow.detach()
        results[f"rope_unit{name}"] = _unit(own, height, width, config)
        if not name:
            results |= _losses(sp, model, (flow - sp.shard(target, 2)).square(), case)
    sp = sp.over(BalancedPartition(**layout, copies=1))
    causal = block_causal_mask(frames, tokens, config.frames_per_block)
    own = sp.shard(positions, -1)
    with torch.no_grad():
        flow = model(sp.shard(noisy, 2), **how, positions=own, mask=causal, exchange=sp)
    return {**results, "flow_noclean": flow}


def _layout(sp: BalancedSP, heads: int, mask: Tensor) -> dict[str, Tensor]:
    """Token ids (clean frames first, then noisy ones) as they lie, this rank's heads, the mask."""
    partition = sp.partition
    of_frame = torch.arange(partition.tokens_per_frame)
    exchanged = torch.cat(
        [
            (place.frame + place.noisy * partition.frames) * len(of_frame) + of_frame
            for place in (
                partition.locate(token) for token in range(0, partition.tokens, len(of_frame))
            )
        ]
    )
    start = sum(partition.tokens_by_rank[: sp.group.rank])
    here = partition.tokens_by_rank[sp.group.rank]
    return {
        "exchanged_tokens": exchanged,
        "local_tokens": exchanged[start : start + here],
        "exchanged_heads": torch.tensor(sp.heads),
        "natural_frame_mask": mask[:: len(of_frame), :: len(of_frame)],
    }


def _unit(positions: Tensor, height: int, width: int, config: Any) -> Tensor:
    """The rotation of (1, 0) in every plane of one head."""
    _, rows, columns = config.patch_size
    turn = rotation(positions[None], (height // rows, width // columns), config.head_dim)
    unit = torch.zeros(1, turn.cos.shape[1], 1, config.head_dim)
    unit[..., ::2] = 1
    return rotate(unit, turn)


def _losses(
    sp: BalancedSP, model: WanTransformer, squares: Tensor, case: Case
) -> dict[str, Tensor]:
    """This rank's own losses, the group's means, and gradients after averaging over the group."""
    losses, mask = squares.mean((1, 3, 4)), sp.shard(case.tensors["input.loss_mask"], 1)
    counted = sp.group.sum(mask.sum())
    mean = sp.masked_mean(losses)
    mean.backward()
    gradients = {
        name: sp.group.sum(parameter.grad) / sp.group.size
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    own = {"loss_nomask": losses.mean().detach(), "loss_mask_local": mask}
    results = {**own, "loss_masked": (losses.detach() * mask).sum() / counted}
    for name, gradient in gradients.items():
        results[f"grad.{name}"] = results[f"grad_mean.{name}"] = gradient
    group_means = {"nomask": mean.detach(), "masked": sp.masked_mean(losses.detach(), mask)}
    for name, value in group_means.items():
        want = case.tensors.get(f"output.sp1.loss_{name}")
        if want is not None:
            torch.testing.assert_close(value, want, rtol=LOSS_RTOL, atol=0.0)
    return results


@torch.no_grad()
def generate(process_group: dist.ProcessGroup, case: Case) -> dict[str, Tensor]:
    """Cached generation, call by call: velocities of whole blocks, this rank's heads of the cache.

    The final cache comes under its names in the case of one rank, of which it is a part.
    """
    group, config = SequenceGroup.of(process_group), sizes(case.config)
    frames = config.frames_per_block
    noisy = case.tensors["input.noisy"]
    tokens = config.tokens_per_frame(*noisy.shape[-2:])
    partition = BalancedPartition(
        frames=frames, ranks=group.size, tokens_per_frame=tokens, copies=1
    )
    sp = BalancedSP(group, partition, heads=config.num_heads)
    model = ParallelTransformer(config, sp)
    model.load_state_dict(dict(case.weights))
    cache = _cache(case, model, len(sp.heads), noisy.shape[1])
    text, flows, begun = case.tensors["input.prompt_embeds"][:, None], [], -1
    for x, call in zip(noisy, case.meta["calls"], strict=True):
        block, timestep = call["block"], call["timestep"]
        if block != begun:
            cache.begin_block(block)
            begun = block
        flows.append(
            model(
                x,
                torch.full((x.shape[0], frames), timestep),
                text,
                positions=torch.arange(frames) + block * frames + call["rope_temporal_offset"],
                memory=cache,
                store=timestep == 0,
            )
        )
        if timestep == 0 and call is not case.meta["calls"][-1]:
            cache.commit()
            if block in case.config["scene_cut_blocks"]:
                cache.start_shot()
    for layer in range(config.num_layers):
        _check_cache(case, cache, layer, sp.heads)
    return {"flow": torch.stack(flows)}


def _cache(case: Case, model: WanTransformer, heads: int, samples: int) -> PagedKVCache:
    config, how = model.config, case.config
    frames = config.frames_per_block
    policy = Window(
        pages=how["local_window_frames"] // frames,
        sink=how["global_sink_frames"] // frames,
        shot_sink=1 if how["scene_cut_blocks"] else 0,
    )
    layout = CacheLayout(
        layers=config.num_layers,
        heads=heads,
        head_dim=config.head_dim,
        tokens_per_page=frames * how["frame_tokens"],
        samples=samples,
    )
    return PagedKVCache(layout, policy, PlainCodec(torch.float32))


def _check_cache(case: Case, cache: PagedKVCache, layer: int, heads: range) -> None:
    """The last block's window is this rank's part of the heads of one rank's cache."""
    order = torch.tensor(cache.order).argsort()  # the original keeps pages in order of time
    rtol, atol = tolerance(case)
    for kind, held in zip("kv", cache.read(layer), strict=True):
        want = case.tensors.get(f"output.sp1.final_cache.layer{layer}.{kind}")
        if want is None:
            continue
        got = held.unflatten(1, (len(order), -1))[:, order].flatten(1, 2)
        part = want[:, : got.shape[1], heads.start : heads.stop]
        torch.testing.assert_close(got, part, rtol=rtol, atol=atol)
