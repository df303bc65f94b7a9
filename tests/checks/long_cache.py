"""A part of group 3: a cache that is longer than the attention window, called step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from longlive_core.kv_cache import (
    AbsolutePositions,
    CacheLayout,
    PagedKVCache,
    PlainCodec,
    RelativePositions,
    Window,
)
from longlive_models.diffusion import FlowSchedule, x0_from_velocity
from longlive_models.wan import WanTransformer
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import batch, build, tolerance

RULE = "anchor beside a long cache"


@dataclass(frozen=True, kw_only=True)
class LongCache:
    """Sees what a window of ``seen`` pages shows of the pages that a longer window holds.

    As the original: the anchor has a page of its own once it lies outside the newest ``seen``
    pages, and the film's sink takes its pages from those. So the anchor is not seen for as many
    blocks as the sink has pages.
    """

    seen: int
    held: Window

    @property
    def capacity(self) -> int:
        return self.held.capacity

    def visible(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        if block < self.seen:
            return tuple(range(block + 1))
        pages = {*range(self.held.sink)}
        if self.held.shot_sink and shot_start <= block - self.seen:
            pages.add(shot_start)
        return tuple(sorted(pages | {*range(block + 1 - self.seen + len(pages), block + 1)}))

    def retained(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        return self.held.retained(block, shot_start)

    def loses_the_anchor(self, block: int, shot_start: int) -> bool:
        """Whether the anchor is not seen though a window of the library would show it."""
        return bool(self.held.shot_sink) and shot_start not in self.visible(block, shot_start)


@torch.no_grad()
def check(case: Case) -> Verdict:
    """Replay the recorded calls; the last one of each block is its clean pass."""
    config, pins = case.config, [call for call in case.meta["calls"] if "pinned_then" in call]
    if rule := _refusal(config, pins):
        return Verdict.refused(rule)
    report, (rtol, atol) = Report(case), tolerance(case)
    block_frames = config["num_frame_per_block"]
    model = build(config["model"], case.weights, frames_per_block=block_frames)
    schedule = FlowSchedule(shift=config.get("timestep_shift", 5.0), parity=True)
    positions = RelativePositions() if config["use_relative_rope"] else AbsolutePositions()
    prompts = case.tensors["input.prompt_embeds"]
    text = batch(list(prompts), model.config.text_len, len(prompts))
    cache = _cache(case, model, len(prompts), bool(pins), positions.rotated)
    pinned, differs = False, False
    for block, group in groupby(case.meta["calls"], lambda call: call["block"]):
        calls = list(group)
        stale = pinned and rolls_a_floating_anchor(cache, block)
        differs |= pinned and (stale or cache.policy.loses_the_anchor(block, cache.shot_start))
        cache.begin_block(block)
        for call in calls:
            label, offset = f"call{call['call']:02d}", call["rope_temporal_offset"]
            x = case.tensors[f"input.{label}.noisy_input"].transpose(1, 2)
            timesteps = torch.full((len(x), block_frames), call["timestep"])
            places = positions.places(cache.order, block, block_frames, offset)
            flow = model(
                x,
                timesteps,
                text,
                positions=torch.tensor(places.own),
                key_positions=None if places.keys is None else torch.tensor(places.keys),
                memory=cache,
                store=call is calls[-1],
            )
            x0 = x0_from_velocity(x, flow, schedule.sigma(timesteps))
            for kind, got in (("flow", flow), ("x0", x0)):
                want = case.tensors.get(f"output.{label}.{kind}")
                if want is not None and not (stale and call is calls[0]):
                    report.close(f"{label}.{kind}", got.transpose(1, 2), want, rtol, atol)
            got, want = _indices(cache, block, pinned), dict(call["after"])
            if 0 <= got["pinned_start"] < cache.policy.held.sink * cache.layout.tokens_per_page:
                got |= {name: want[name] for name in want if "pinned" in name}  # see RULES
            report.equal(f"{label} indices", got, want)
        cache.commit()
        if "pinned_then" in calls[-1]:
            cache.start_shot()
            pinned = True
    _check_final(case, report, cache, rtol, atol)
    verdict = report.verdict()
    return Verdict.differs(RULE) if differs and verdict.kind == "held" else verdict


def rolls_a_floating_anchor(cache: PagedKVCache, block: int) -> bool:
    """Whether making room for a block moves an anchor: its first step then sees another page."""
    held = cache.policy.held
    return block >= held.pages and cache.pages.index(cache.shot_start) > held.sink


def _refusal(config: Mapping[str, Any], pins: Sequence[Mapping[str, Any]]) -> str | None:
    """The rule by which the library refuses this cache, if it does."""
    block, sink = config["num_frame_per_block"], _sink_frames(config)
    tokens = block * config["frame_tokens"]
    if sink % block or any(pin["pinned_then"]["pinned_len"] != tokens for pin in pins):
        return "whole-page sink"
    if config["window_frames"] % block or config["cache_frames"] % block:
        return "whole-page window"
    if config["window_frames"] <= sink + (block if pins else 0):
        return "room beside the sinks"
    if pins and config["global_sink_frames"] != sink:
        return "one sink"
    return None


def _sink_frames(config: Mapping[str, Any]) -> int:
    return max(config["sink_frames"], config["global_sink_frames"])


def _cache(
    case: Case, model: WanTransformer, samples: int, pins: bool, rotated: bool
) -> PagedKVCache:
    config = case.config
    block = config["num_frame_per_block"]
    held = Window(
        pages=config["cache_frames"] // block,
        sink=_sink_frames(config) // block,
        shot_sink=1 if pins else 0,
    )
    policy = LongCache(seen=config["window_frames"] // block, held=held)
    layout = CacheLayout(
        layers=model.config.num_layers,
        heads=model.config.num_heads,
        head_dim=model.config.head_dim,
        tokens_per_page=block * config["frame_tokens"],
        samples=samples,
        rotated=rotated,
    )
    return PagedKVCache(layout, policy, PlainCodec(torch.float32))


def _indices(cache: PagedKVCache, block: int, pinned: bool) -> dict[str, int]:
    """The state of a cache in the original's terms: tokens, pages in order of time."""
    tokens, pages = cache.layout.tokens_per_page, cache.pages
    return {
        "global_end_index": (block + 1) * tokens,
        "local_end_index": len(pages) * tokens,
        "pinned_start": pages.index(cache.shot_start) * tokens if pinned else -1,
        "pinned_len": tokens if pinned else 0,
    }


def _check_final(case: Case, report: Report, cache: PagedKVCache, rtol: float, atol: float) -> None:
    """Everything held, in order of time, as the original keeps it."""
    stored = cache.snapshot().tensors
    for layer in range(cache.layout.layers):
        for kind in ("keys", "values"):
            pages = [stored[f"{layer}.{page}.{kind}.page"] for page in cache.pages]
            want = case.tensors.get(f"output.final_cache.layer{layer}.{kind[0]}")
            if want is not None:
                report.close(f"final {kind} {layer}", torch.cat(pages, dim=1), want, rtol, atol)
