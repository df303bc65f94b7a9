"""Whether blocks over ranks have the bytes of one rank's: latents, and what the cache shows."""

import gc
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longlive_core.attention import ATTENTION, Request
from longlive_core.kv_cache import PagedKVCache
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.generator import BlockGenerator
from longlive_models.prompts.storyboard import BlockPrompt
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes.bench.options import Table
from longlive_recipes.bench.preset.models import Preset, build, preset_of
from longlive_recipes.bench.preset_options import InvarianceOptions
from longlive_recipes.bench.ranks import on_ranks
from longlive_recipes.bench.shared_sizes import relative_error

BLOCKS = 2
SEED = 7


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a block is computed: fields of ``RuntimeOptions``."""

    name: str
    weights: str = "bf16"
    kv_cache: str = "bf16"
    attention: str = "auto"


SETTINGS = (
    Setting(name="bf16"),
    Setting(name="bf16, cuDNN's attention", attention="cudnn"),
    Setting(name="bf16, NVFP4 cache", kv_cache="nvfp4"),
    Setting(name="FP8 linears", weights="fp8"),
)


class WatchedCache(PagedKVCache):
    """A cache that knows the bits of what it showed last, layer by layer and head by head."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shown: dict[int, Tensor] = {}

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """As ``PagedKVCache``."""
        k, v = super().read(layer)
        self.shown[layer] = torch.stack([digest(k), digest(v)])
        return k, v


def digest(x: Tensor) -> Tensor:
    """A number of 64 bits of each head's bits [batch, tokens, heads, dim]; other bits, another."""
    kind = {2: torch.int16, 4: torch.int32}[x.itemsize]
    numbers = x.contiguous().view(kind).long()
    shape = (numbers.shape[0], numbers.shape[1], 1, numbers.shape[3])
    drawn = torch.Generator(x.device).manual_seed(0)
    weights = torch.randint(
        -(2**62), 2**62, shape, generator=drawn, dtype=torch.int64, device=x.device
    )
    return (numbers * (2 * weights + 1)).sum((0, 1, 3))


def compare_ranks(told: InvarianceOptions, preset: Preset, kind: str) -> Table:
    """A row for each setting: what differs between one rank and ``told.ranks`` of them."""
    answers = on_ranks(told.ranks, kind, compare_on_rank, preset.name, told.layers)
    rows: Table = {}
    for name in answers[0]:
        parts = [answer[name] for answer in answers]
        if isinstance(parts[0], str):
            rows[name] = {"latents": parts[0]}
            continue
        latents = all(part["latents"] for part in parts)
        heads = sum(part["other_heads"] for part in parts)
        rows[name] = {
            "latents": "same bytes" if latents else f"{max(p['error'] for p in parts):.3g} off",
            "keys_and_values": "same bytes" if not heads else f"{heads} heads differ",
        }
    return rows


def compare_on_rank(
    group: SequenceGroup, device: torch.device, name: str, layers: int | None
) -> dict[str, Any]:
    """A rank's part: blocks by itself, then over the group; whether its share is the same."""
    preset = preset_of(name, device)
    if layers is not None and preset.folder is None:
        wan = replace(preset.spec.transformer, num_layers=layers)
        preset = replace(preset, spec=replace(preset.spec, transformer=wan))
    found: dict[str, Any] = {}
    for setting in SETTINGS:
        why = _why_not(setting, preset, device)
        found[setting.name] = why or _compare(group, device, preset, setting)
    return found


def _why_not(setting: Setting, preset: Preset, device: torch.device) -> str | None:
    if setting.attention == "auto":
        return None
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    asked = Request(device=device, dtype=dtype, head_dim=preset.spec.transformer.head_dim)
    standing = ATTENTION.explain(asked)[setting.attention]
    return None if standing.startswith("usable") else standing


def _compare(
    group: SequenceGroup, device: torch.device, preset: Preset, setting: Setting
) -> dict[str, Any]:
    alone, every = _make(SequenceGroup(), device, preset, setting)
    _forget(device)
    shared, own = _make(group, device, preset, setting)
    _forget(device)
    heads = preset.spec.transformer.num_heads
    sizes = [heads // group.size + (r < heads % group.size) for r in range(group.size)]
    first = sum(sizes[: group.rank])
    mine = every[..., first : first + sizes[group.rank]]
    return {
        "latents": torch.equal(alone, shared),
        "error": relative_error(shared, alone),
        "other_heads": int((mine != own).any(1).sum()),
    }


def _forget(device: torch.device) -> None:
    """Give back what a pipeline held: two of them need not be there at a time."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _make(
    group: SequenceGroup, device: torch.device, preset: Preset, setting: Setting
) -> tuple[Tensor, Tensor]:
    """The latents of some blocks, and the digests of keys and values [layers, 2, heads]."""
    told = RuntimeOptions(
        device=str(device),
        weights=setting.weights,
        kv_cache=setting.kv_cache,
        attention=setting.attention,
    )
    runtime = Runtime.choose(told)
    pipe = build(preset, runtime, group)
    settings = pipe.settings
    layout = replace(pipe.spec.cache_layout(settings.branches), heads=len(pipe.sp.heads))
    codec = runtime.codec(pipe.sp.max_over_group)
    cache = WatchedCache(layout, settings.policy, codec, device)
    generator = BlockGenerator(
        pipe.transformer,
        pipe.text,
        cache,
        sampler=settings.block_sampler,
        latent_size=pipe.spec.latent_size,
        seeds=[SEED],
        guidance=settings.guidance,
        negative_prompt=settings.negative_prompt,
        t_scale=settings.t_scale,
    )
    prompt = BlockPrompt(text="a red circle", shot=0, cut=False, offset=0.0)
    latents = [generator.generate(index, [prompt]).latents.cpu() for index in range(BLOCKS)]
    return torch.cat(latents, 2), torch.stack([cache.shown[n] for n in sorted(cache.shown)]).cpu()
