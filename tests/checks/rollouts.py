"""A part of group 11: a student's rollout, replayed call by call and then end to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_models.diffusion import BlockSampler, FlowSchedule, add_noise, x0_from_velocity
from longlive_models.generator import BlockGenerator
from longlive_models.objectives import self_rollout
from longlive_models.prompts.storyboard import BlockPrompt
from longlive_models.wan import TextContext, WanTransformer
from longlive_models.wan.attention import Memory
from tests.checks import long_cache
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import batch, build, tolerance

LATENTS_RTOL, LATENTS_ATOL = 1e-3, 1e-4


@dataclass(frozen=True, kw_only=True)
class LongerCache:
    """Shows what a window shows, and holds more: a page that is not seen yet may be kept."""

    seen: Window
    held: Window

    @property
    def capacity(self) -> int:
        return self.held.capacity

    def visible(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        return self.seen.visible(block, shot_start)

    def retained(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        return self.held.retained(block, shot_start)


class _Texts:
    """Embeddings by the number that stands for a prompt."""

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings

    @property
    def text_len(self) -> int:
        return self.embeddings.shape[1]

    @property
    def text_dim(self) -> int:
        return self.embeddings.shape[2]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return self.embeddings[[int(prompt) for prompt in prompts]]


class _Plan:
    """The prompts of one video."""

    def __init__(self, prompts: Sequence[BlockPrompt]) -> None:
        self.prompts = prompts

    def block(self, index: int) -> BlockPrompt:
        return self.prompts[index]


class _Original(BlockGenerator):
    """With the case's noise, and levels of a table: the context pass sees a little noise."""

    case: Case
    table: FlowSchedule

    def _noise(self, block: int, step: int = 0) -> Tensor:
        size = self.model.config.frames_per_block
        frames = slice(block * size, (block + 1) * size)
        return self.case.tensors["input.noise"][:, frames].transpose(1, 2)

    def _guided(
        self,
        latents: Tensor,
        timestep: float,
        text: TextContext,
        block: int,
        offset: float,
        memory: Memory,
    ) -> Tensor:
        """In the exit step as much that ``x - sigma v`` is the estimate at the table's level."""
        velocity = super()._guided(latents, timestep, text, block, offset, memory)
        if memory is self.cache:
            return velocity
        schedule = self.sampler.schedule(block)
        sigma = schedule.sigmas[schedule.timesteps.index(timestep)]
        return velocity * self.table.sigma(torch.tensor([timestep])) / sigma

    def _fill_page(self, latents: Tensor, text: TextContext, block: int, offset: float) -> None:
        noise = self.case.tensors[f"input.context_noise{block}"]
        noise = noise.unflatten(0, (len(latents), -1)).transpose(1, 2)
        sigma = self.table.sigma(torch.zeros(latents.shape[0], latents.shape[2]))
        noisy = add_noise(latents, noise, sigma)
        super()._fill_page(noisy, text, block, offset)


def check(case: Case) -> Verdict:
    config, report = case.config, Report(case)
    block = config["num_frame_per_block"]
    assert not config["independent_first_frame"], "a first block of one frame"
    assert config["context_noise"] == 0, "a context that is noisier on purpose"
    window, sink = config.get("local", config["cache_frames"]), config.get("sink", 0)
    if sink % block:
        return Verdict.refused("whole-page sink")
    if window % block or config["cache_frames"] % block:
        return Verdict.refused("whole-page window")
    cuts = set(case.meta["scene_cut_blocks"])
    anchored = bool(config.get("mss", False)) and bool(cuts)
    if window <= sink + (block if anchored else 0):
        return Verdict.refused("room beside the sinks")
    model = build(config["model"], case.weights, frames_per_block=block)
    moved = _replay(case, report, model, _cache(case, model, window, sink, anchored))
    if "output.latents" in case.tensors:
        _generate(case, report, model, _cache(case, model, window, sink, anchored), moved)
    verdict = report.verdict(parity=True)  # timestep 0 is not clean in the original
    return Verdict.differs(long_cache.RULE) if moved and verdict.kind != "failed" else verdict


def _cache(
    case: Case, model: WanTransformer, window: int, sink: int, anchored: bool
) -> PagedKVCache:
    config, block = case.config, case.config["num_frame_per_block"]
    layout = CacheLayout(
        layers=model.config.num_layers,
        heads=model.config.num_heads,
        head_dim=model.config.head_dim,
        tokens_per_page=block * config["frame_tokens"],
        samples=len(case.tensors["input.noise"]),
    )
    seen, held = (
        Window(pages=frames // block, sink=sink // block, shot_sink=int(anchored))
        for frames in (window, config["cache_frames"])
    )
    policy = LongerCache(seen=seen, held=held)
    return PagedKVCache(layout, policy, PlainCodec(torch.float32))


def _plans(case: Case) -> list[_Plan]:
    """The prompts of each video, a number each, and where the shots begin."""
    samples, cuts = len(case.tensors["input.noise"]), set(case.meta["scene_cut_blocks"])
    blocks = len(case.tensors["input.prompt_embeds"]) // samples
    shots = [sum(cut <= block for cut in cuts) for block in range(blocks)]
    phase, pins = case.config.get("phi", 0.0), bool(case.config.get("mss", False))
    return [
        _Plan(
            [
                BlockPrompt(
                    text=str(sample * blocks + block),
                    shot=shots[block],
                    cut=pins and block in cuts,
                    offset=phase * shots[block],
                )
                for block in range(blocks)
            ]
        )
        for sample in range(samples)
    ]


@torch.no_grad()
def _replay(case: Case, report: Report, model: WanTransformer, cache: PagedKVCache) -> set[int]:
    """Each call from its recorded input; the blocks whose first step moves a pinned anchor."""
    rtol, atol = tolerance(case)
    schedule = FlowSchedule(shift=case.config["timestep_shift"], parity=True)
    plans, size = _plans(case), case.config["num_frame_per_block"]
    tokens, moved, pinned = cache.layout.tokens_per_page, set(), False
    prompts = case.tensors["input.prompt_embeds"]
    calls = groupby(case.meta["calls"], lambda call: call["current_start_tokens"] // tokens)
    for block, group in calls:
        of_block, prompt = list(group), plans[0].block(block)
        stale = pinned and long_cache.rolls_a_floating_anchor(cache, block)
        if stale:
            moved.add(block)
        cache.begin_block(block)
        rows = [prompts[int(plan.block(block).text)] for plan in plans]
        text = batch(rows, model.config.text_len, len(plans))
        for call in of_block:
            label = f"call{call['call']:03d}"
            x = case.tensors[f"output.{label}.noisy_input"].transpose(1, 2)
            timesteps = case.tensors[f"output.{label}.timestep"]
            report.equal(f"{label} offset", prompt.offset, call["rope_temporal_offset"])
            flow = model(
                x,
                timesteps,
                text,
                positions=torch.arange(block * size, (block + 1) * size) + prompt.offset,
                memory=cache,
                store=call is of_block[-1],
            )
            got = {"flow": flow, "x0": x0_from_velocity(x, flow, schedule.sigma(timesteps))}
            for kind, value in got.items():
                want = case.tensors.get(f"output.{label}.{kind}")
                if want is not None and not (stale and call is of_block[0]):
                    report.close(f"{label}.{kind}", value.transpose(1, 2), want, rtol, atol)
            places = [(block + 1) * tokens, len(cache.pages) * tokens]
            want_places = [call["after"][f"{end}_end_index"] for end in ("global", "local")]
            report.equal(f"{label} indices", places, want_places)
        cache.commit()
        if prompt.cut:
            cache.start_shot()
            pinned = True
    _check_final(case, report, cache, rtol, atol)
    return moved


def _check_final(case: Case, report: Report, cache: PagedKVCache, rtol: float, atol: float) -> None:
    """Everything held, in order of time, as the original keeps it."""
    stored = cache.snapshot().tensors
    for layer in range(cache.layout.layers):
        for kind in ("keys", "values"):
            pages = [stored[f"{layer}.{page}.{kind}.page"] for page in cache.pages]
            want = case.tensors.get(f"output.final_cache.layer{layer}.{kind[0]}")
            if want is not None:
                report.close(f"final {kind} {layer}", torch.cat(pages, dim=1), want, rtol, atol)


def _generate(
    case: Case, report: Report, model: WanTransformer, cache: PagedKVCache, moved: set[int]
) -> None:
    """The whole rollout by the library's own generator, up to where it differs on purpose."""
    config, exits = case.config, list(case.meta["exit_flags"])
    size, plans = config["num_frame_per_block"], _plans(case)
    blocks = len(case.tensors["input.noise"][0]) // size
    shift, sliced = config["timestep_shift"], config["slice_last_frames"]
    generator = _Original(
        model,
        _Texts(case.tensors["input.prompt_embeds"]),
        cache,
        sampler=BlockSampler(name="unipc", steps=config["sampling_steps"], shift=shift),
        latent_size=tuple(case.tensors["input.noise"].shape[3:]),
        seeds=range(len(plans)),
    )
    generator.case = case
    generator.table = FlowSchedule(shift=shift, parity=True)
    exits = exits[:1] * blocks if config["same_step_across_blocks"] else exits[:blocks]
    trained = blocks if sliced == -1 else min(blocks, sliced // size)
    made = self_rollout(generator, plans, exit_steps=exits, trained_blocks=trained)
    calls = groupby(
        case.meta["calls"],
        lambda call: call["current_start_tokens"] // cache.layout.tokens_per_page,
    )
    trains = [any(call["grad_enabled"] for call in group) for _, group in calls]
    got = [n >= blocks - trained for n in range(blocks)]
    report.equal("blocks with gradients", got, trains)
    report.equal("gradients", made.latents.requires_grad, any(trains))
    frames = size * min(moved, default=blocks)
    want = case.tensors["output.latents"][:, :frames]
    latents = made.latents[:, :, :frames].transpose(1, 2)
    report.close("latents", latents, want, LATENTS_RTOL, LATENTS_ATOL)
