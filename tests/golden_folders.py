"""Golden folders of group 3 for any settings: what the original would have recorded.

The model is the library's, the memory is not: a list of blocks, and the original's indices as
`spec/inference.md` (2.4 to 2.6) has them, in tokens. So a runner that holds here takes settings
from the folder, and does with them what the original does.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from longlive_models.diffusion import FlowSchedule, guide, unipc, unipc_schedule, x0_from_velocity
from longlive_models.wan import WanTransformer
from tests.checks.transformers import batch
from tests.checks.transformers import sizes as transformer_sizes

MODEL = {
    "model_type": "ti2v",
    "patch_size": [1, 2, 2],
    "text_len": 6,
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "dim": 24,
    "num_heads": 2,
    "ffn_dim": 16,
    "num_layers": 1,
    "in_dim": 2,
    "out_dim": 2,
    "text_dim": 8,
    "freq_dim": 8,
}


@dataclass
class Buffer:
    """The original's buffer: blocks in the order of their tokens, and its four indices."""

    tokens: int
    capacity: int  # in blocks, as all that follows but the indices
    sink: int
    global_sink: int
    pinned_length: int
    blocks: list[int] = field(default_factory=list)
    done: int = 0
    pinned: int = -1

    def step(self, block: int) -> list[int]:
        """Make room for a block at its first call; what it attends to, itself last."""
        if not self.blocks or self.blocks[-1] != block:
            if len(self.blocks) + 1 > self.capacity:
                protected = max(self.global_sink, self.sink)
                if self.pinned >= 0:
                    anchored = self.pinned == self.global_sink
                    protected = self.global_sink + (self.pinned_length if anchored else 0)
                del self.blocks[protected]
                if self.pinned > self.global_sink:
                    self.pinned -= 1
            self.blocks.append(block)
            self.done = block + 1
        return self.blocks

    def forget(self, block: int) -> None:
        """Cut back to the global sink, before a cut's clean pass."""
        self.blocks = [*self.blocks[:-1][: self.global_sink], block]

    def indices(self) -> dict[str, int]:
        pinned = self.pinned >= 0
        return {
            "global_end_index": self.done * self.tokens,
            "local_end_index": len(self.blocks) * self.tokens,
            "pinned_start": self.pinned * self.tokens if pinned else -1,
            "pinned_len": self.pinned_length * self.tokens if pinned else 0,
        }


class ListMemory:
    """Keys and values of all blocks; shows those it is told to, in their order."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.shown: Sequence[int] = ()

    def write(self, layer: int, k: Tensor, v: Tensor, *, clean: bool = False) -> None:
        self.kept[layer, self.shown[-1]] = (k, v)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        seen = [self.kept[layer, block] for block in self.shown]
        return torch.cat([k for k, _ in seen], 1), torch.cat([v for _, v in seen], 1)


@torch.no_grad()
def write_generation(
    folder: Path,
    name: str,
    *,
    plan: Sequence[Sequence[int]],
    cuts: Mapping[int, bool],
    inference: Mapping[str, Any],
    block: int = 2,
    window: int = 8,
    size: tuple[int, int] = (4, 4),
    relative: bool = False,
    shift: float = 5.0,
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add a case's file to a folder; its manifest entry. ``plan`` has the prompts of each block."""
    torch.manual_seed(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    sizes = {**MODEL, **(model or {})}
    videos, blocks = len(plan), len(plan[0])
    shape = [videos, blocks * block, sizes["in_dim"], *size]
    tokens = block * (size[0] // sizes["patch_size"][1]) * (size[1] // sizes["patch_size"][2])
    guidance = inference["guidance_scale"]
    prompts = 1 + max(max(sample) for sample in plan)
    embeds = [torch.randn(sizes["text_len"], sizes["text_dim"]) for _ in range(prompts + 1)]
    network = WanTransformer(replace(transformer_sizes(sizes), frames_per_block=block))
    for parameter in network.parameters():
        parameter.copy_((0.2 * torch.randn_like(parameter)).bfloat16())
    noise = torch.randn(shape)
    tensors = {
        "input.noise": noise,
        **{f"input.prompt_embeds.{i}": x for i, x in enumerate(embeds)},
        **{f"weight.{n}": p.bfloat16() for n, p in network.state_dict().items()},
    }
    sink, capacity = inference["sink_size"] // block, 3 if window == -1 else window // block
    shots = bool(inference.get("multi_shot_sink"))
    pinned = min(sink, 1) if shots else 0
    branches = {"pos": 0, **({"neg": 1} if guidance != 1 else {})}
    buffers = {n: Buffer(tokens, capacity, sink, sink if shots else 0, pinned) for n in branches}
    memories = {n: ListMemory() for n in branches}
    levels, schedule = (
        FlowSchedule(shift=shift, parity=True),
        unipc_schedule(inference["sampling_steps"], shift),
    )
    t_scale = inference.get("inference_t_scale", 1.0)
    calls: list[dict[str, Any]] = []

    def call(branch: str, index: int, x: Tensor, timestep: float, offset: float) -> Tensor:
        buffer, memory = buffers[branch], memories[branch]
        clean = timestep == 0
        memory.shown = list(buffer.step(index))
        if clean and inference.get("shot_clean_recache") and is_cut(index):
            buffer.forget(index)
            memory.shown = list(buffer.blocks)
        text = [embeds[sample[index]] if branch == "pos" else embeds[-1] for sample in plan]
        places = torch.arange(index * block, (index + 1) * block) + offset
        keys = torch.arange(len(memory.shown) * block) if relative else None
        flow = network(
            x.transpose(1, 2),
            torch.full((videos, block), timestep),
            batch(text, sizes["text_len"], videos),
            positions=keys[-block:].double() if relative else places.double(),
            key_positions=keys.double() if relative else None,
            t_scale=t_scale,
            memory=memory,
            store=clean,
        )
        label = f"output.call{len(calls):03d}"
        sigma = levels.sigma(torch.full((videos, block), timestep))
        tensors[f"{label}.noisy_input"] = x.clone()
        tensors[f"{label}.flow"] = flow.transpose(1, 2).contiguous()
        x0 = x0_from_velocity(x.transpose(1, 2), flow, sigma)
        tensors[f"{label}.x0"] = x0.transpose(1, 2).contiguous()
        calls.append(
            {
                "call": len(calls),
                "cache": branch,
                "current_start_tokens": index * tokens,
                "frames": block,
                "timestep_max": float(timestep),
                "rope_temporal_offset": float(offset),
                "after": buffer.indices(),
            }
        )
        if clean and shots and pinned and is_cut(index):
            buffer.pinned = len(buffer.blocks) - 1
        return flow.transpose(1, 2)

    def is_cut(index: int) -> bool:
        return index > 0 and cuts.get(plan[0][index], False)

    offset, made = 0.0, []
    for index in range(blocks):
        offset += inference.get("multi_shot_rope_offset", 0) if is_cut(index) else 0

        def denoise(
            x: Tensor, timestep: float, index: int = index, offset: float = offset
        ) -> Tensor:
            flow = call("pos", index, x, timestep, offset)
            if guidance == 1:
                return flow
            return guide(flow, call("neg", index, x, timestep, offset), guidance)

        x = unipc(denoise, noise[:, index * block : (index + 1) * block], schedule)
        for branch in branches:
            call(branch, index, x, 0.0, offset)
        made.append(x)
    tensors["output.latents"] = torch.cat(made, 1)
    path = folder / f"{name}.safetensors"
    save_file({n: x.contiguous() for n, x in tensors.items()}, path)
    pipeline: dict[str, Any] = {
        "model_kwargs": {
            "model_name": "Tiny-5B",
            "timestep_shift": shift,
            "num_frame_per_block": block,
            "local_attn_size": window,
        },
        "num_frame_per_block": block,
        "image_or_video_shape": shape,
        "num_train_timestep": 1000,
        "inference": dict(inference),
    }
    return {
        "group": 3,
        "file": path.name,
        "tolerance": "rtol 2e-4, atol 2e-5 per call",
        "config": {
            "model": sizes,
            "pipeline": {**pipeline, **({"use_relative_rope": True} if relative else {})},
            "frame_tokens": tokens // block,
            "attention": "float32",
            "overrides": {},
        },
        "prompts_per_block": [list(sample) for sample in plan],
        "prompt_is_scene_cut": {str(i): bool(cuts.get(i, False)) for i in range(prompts + 1)},
        "negative_prompt_index": prompts if guidance != 1 else None,
        "calls": calls,
    }


def write_folder(folder: Path, cases: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest of a folder whose files are there."""
    (folder / "manifest.json").write_text(json.dumps({"cases": cases}))
