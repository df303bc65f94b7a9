"""Group 3: generation block by block through the paged cache.

Calls are replayed from their recorded inputs first, so that errors do not add up, and then the
whole video is generated from its noise with the project's sampler.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from longlive_core.kv_cache import (
    AbsolutePositions,
    CacheLayout,
    PagedKVCache,
    PlainCodec,
    PositionPolicy,
    RelativePositions,
    Window,
)
from longlive_models.diffusion import FlowSchedule, guide, unipc, unipc_schedule, x0_from_velocity
from tests.checks import long_cache
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import batch, build, texts, tolerance

LATENTS_RTOL, LATENTS_ATOL = 1e-3, 1e-4


Near = Callable[[Tensor], tuple[float, float]]
"""How near a result must be to this tensor: rtol and atol."""

MakeCache = Callable[[CacheLayout, Window], PagedKVCache]
CheckFinal = Callable[[Case, Report, PagedKVCache], None]


def plain_cache(layout: CacheLayout, policy: Window) -> PagedKVCache:
    return PagedKVCache(layout, policy, PlainCodec(torch.float32))


@torch.no_grad()
def check(case: Case) -> Verdict:
    if verdict := standing(case):
        return verdict
    assert not case.config["pipeline"].get("kv_quant"), "four bits are of group 9"
    report = Report(case)
    near = tolerance(case)
    compare(case, report, lambda _: near, lambda _: (LATENTS_RTOL, LATENTS_ATOL))
    return report.verdict()


def standing(case: Case) -> Verdict | None:
    """The verdict of a case that is not compared."""
    pipeline = case.config.get("pipeline")
    if pipeline is None:  # a cache that is longer than its window
        return long_cache.check(case)
    how = pipeline["inference"]
    if rule := _refusal(pipeline):
        return Verdict.refused(rule)
    given, block = case.tensors.get("input.initial_latent"), pipeline["num_frame_per_block"]
    if how.get("independent_first_frame"):
        if given is None:
            return Verdict.refused("whole-page window")  # a first block of one frame
    elif given is not None and given.shape[1] % block:
        return Verdict.refused("whole-page window")  # a block of given frames that is not whole
    if how.get("shot_clean_recache") and _first_cut(case) < _sink_pages(pipeline):
        return Verdict.differs("forgetting inside the sink")
    return None


def compare(
    case: Case,
    report: Report,
    near: Near,
    latents_near: Near,
    make_cache: MakeCache = plain_cache,
    check_final: CheckFinal | None = None,
) -> None:
    """Replay the recorded calls, then generate the whole video."""
    if all(f"output.call{c['call']:03d}.noisy_input" in case.tensors for c in case.meta["calls"]):
        _replay(case, report, near, Generation(case, make_cache), check_final or _check_final_cache)
    if "output.latents" in case.tensors:
        _generate(case, report, latents_near, Generation(case, make_cache))


def _refusal(pipeline: Mapping[str, Any]) -> str | None:
    """The rule by which the library refuses this cache, if it does."""
    how, block = pipeline["inference"], pipeline["num_frame_per_block"]
    window = pipeline["model_kwargs"]["local_attn_size"]
    if how["sink_size"] % block:
        return "whole-page sink"
    if window != -1 and window % block:
        return "whole-page window"
    anchor = block if how.get("multi_shot_sink") and how["sink_size"] else 0
    if _window_frames(pipeline) <= how["sink_size"] + anchor:
        return "room beside the sinks"
    return None


def _window_frames(pipeline: Mapping[str, Any]) -> int:
    """Frames of the window; -1 means three blocks."""
    frames, block = pipeline["model_kwargs"]["local_attn_size"], pipeline["num_frame_per_block"]
    return 3 * block if frames == -1 else frames


def _t_scale(case: Case) -> float:
    """What temporal positions are multiplied by, wherever the settings have it."""
    pipeline = case.config["pipeline"]
    places = (pipeline["inference"], pipeline, pipeline["model_kwargs"], case.config["model"])
    found = [p[n] for p in places for n in ("inference_t_scale", "t_scale") if n in p]
    return float(found[0]) if found else 1.0


def _sink_pages(pipeline: Mapping[str, Any]) -> int:
    return pipeline["inference"]["sink_size"] // pipeline["num_frame_per_block"]


def _first_cut(case: Case) -> float:
    """The first block that is a cut, given blocks counted; infinity where none is."""
    is_cut, given = case.meta["prompt_is_scene_cut"], case.tensors.get("input.initial_latent")
    cuts = [i for i, p in enumerate(case.meta["prompts_per_block"][0]) if i and is_cut[str(p)]]
    pipeline = case.config["pipeline"]
    if given is None or pipeline["inference"].get("independent_first_frame"):
        before = 0
    else:
        before = given.shape[1] // pipeline["num_frame_per_block"]
    return before + cuts[0] if cuts else float("inf")


def _positions(relative: bool | None) -> PositionPolicy:
    return RelativePositions() if relative else AbsolutePositions()


class Generation:
    """A model and its caches, ``pos`` for the prompts and ``neg`` for the negative prompt."""

    def __init__(self, case: Case, make_cache: MakeCache) -> None:
        pipeline, plan = case.config["pipeline"], case.meta["prompts_per_block"]
        self.how, kwargs = pipeline["inference"], pipeline["model_kwargs"]
        self.block_frames = pipeline["num_frame_per_block"]
        self.block_tokens = self.block_frames * case.config["frame_tokens"]
        own = kwargs.get("num_frame_per_block", self.block_frames)
        assert own == self.block_frames, "two sizes of a block"
        shape = pipeline.get("image_or_video_shape")
        assert shape in (None, list(case.tensors["input.noise"].shape)), "noise of another shape"
        self.shift = kwargs.get("timestep_shift", 5.0)
        self.levels = FlowSchedule(
            shift=self.shift, levels=pipeline.get("num_train_timestep", 1000), parity=True
        )
        self.schedule = unipc_schedule(self.how["sampling_steps"], self.shift)
        self.guidance = self.how["guidance_scale"]
        self.shot_offset = self.how.get("multi_shot_rope_offset", 0)
        self.t_scale = _t_scale(case)
        self.model = build(case.config["model"], case.weights, frames_per_block=self.block_frames)
        samples = case.tensors["input.noise"].shape[0]
        given = case.tensors.get("input.initial_latent")
        self.image = given if self.how.get("independent_first_frame") else None
        self.given = None if self.image is not None else given  # blocks to continue
        self.given_blocks = 0 if self.given is None else self.given.shape[1] // self.block_frames
        self.positions = _positions(pipeline.get("use_relative_rope"))
        self.pins_shots = bool(self.how.get("multi_shot_sink")) and self.how["sink_size"] > 0
        self.forgets = bool(self.how.get("shot_clean_recache"))
        frames = _window_frames(pipeline)
        self.caches = {name: make_cache(*self._sizes(frames, samples)) for name in ("pos", "neg")}
        self.begun: dict[str, int] = {}
        self.old_anchor: dict[str, int] = {}  # its place in the window when a cut forgot it
        self.texts, self.cuts = self._prompts(case, plan, samples)

    def _sizes(self, frames: int, samples: int) -> tuple[CacheLayout, Window]:
        sink, shot_sink = self.how["sink_size"] // self.block_frames, int(self.pins_shots)
        if self.forgets and not self.how.get("multi_shot_sink"):
            sink, shot_sink = 0, sink  # no sink outlasts a cut: the new shot begins with one
        policy = Window(pages=frames // self.block_frames, sink=sink, shot_sink=shot_sink)
        layout = CacheLayout(
            layers=self.model.config.num_layers,
            heads=self.model.config.num_heads,
            head_dim=self.model.config.head_dim,
            tokens_per_page=self.block_tokens,
            samples=samples,
            rotated=self.positions.rotated,
        )
        return layout, policy

    def _prompts(
        self, case: Case, plan: list[list[int]], samples: int
    ) -> tuple[dict[str, list[Tensor]], list[bool]]:
        """The text of each block, and which blocks are cuts (the first sample's prompts say)."""
        length, prompts = self.model.config.text_len, texts(case, "input.prompt_embeds.")
        # given blocks are read with the prompts of all blocks at once, each for its part of them
        every = plan if any(len(set(sample)) > 1 for sample in plan) else [s[:1] for s in plan]
        given = batch([prompts[i] for sample in every for i in sample], length, samples)
        text = {"pos": [given] * self.given_blocks}
        text["pos"] += [
            batch([prompts[sample[i]] for sample in plan], length, samples)
            for i in range(len(plan[0]))
        ]
        blocks = len(text["pos"])
        if (negative := case.meta["negative_prompt_index"]) is not None:
            text["neg"] = [batch([prompts[negative]] * samples, length, samples)] * blocks
        is_cut = case.meta["prompt_is_scene_cut"]
        own = [bool(i) and is_cut[str(prompt)] for i, prompt in enumerate(plan[0])]
        return text, [False] * self.given_blocks + own

    def __call__(
        self, name: str, block: int, x: Tensor, timesteps: Tensor, offset: float, clean: bool
    ) -> Tensor:
        """The velocity of a block's latents [batch, channels, frames, height, width]."""
        if self.begun.get(name) != block:
            self.caches[name].begin_block(block)
            self.begun[name] = block
        if clean and self.forgets and self.cuts[block]:
            pages = sorted(self.caches[name].order)
            self.old_anchor[name] = pages.index(self.caches[name].shot_start)
            self.caches[name].start_shot(forget=True)
        order = self.caches[name].order
        places = self.positions.places(order, block, self.block_frames, offset)
        return self.model(
            x,
            timesteps,
            self.texts[name][block],
            positions=torch.tensor(places.own),
            key_positions=None if places.keys is None else torch.tensor(places.keys),
            t_scale=self.t_scale,
            memory=self.caches[name],
            store=clean,
        )

    def finish(self, name: str, block: int) -> None:
        """Keep the block; a cut's block anchors the shot that it begins."""
        self.caches[name].commit()
        if self.pins_shots and self.cuts[block] and not self.forgets:
            self.caches[name].start_shot()


def _replay(
    case: Case, report: Report, near: Near, generation: Generation, check_final: CheckFinal
) -> None:
    schedule = generation.levels
    for call in case.meta["calls"]:
        label = f"call{call['call']:03d}"
        x = _frames_second(case.tensors[f"output.{label}.noisy_input"])
        timesteps = case.tensors.get(f"output.{label}.timestep")
        if timesteps is None:
            timesteps = torch.full(x.shape[:1] + x.shape[2:3], call["timestep_max"])
        timesteps = timesteps.expand(-1, x.shape[2])
        block = call["current_start_tokens"] // generation.block_tokens
        name, clean = call["cache"], call["timestep_max"] == 0
        flow = generation(name, block, x, timesteps, call["rope_temporal_offset"], clean)
        x0 = x0_from_velocity(x, flow, schedule.sigma(timesteps))
        for kind, got in (("flow", flow), ("x0", x0)):
            if (want := case.tensors.get(f"output.{label}.{kind}")) is not None:
                report.close(f"{label}.{kind}", _frames_second(got), want, *near(want))
        cache = generation.caches[name]
        got = _indices(cache, block, generation)
        if clean and got["pinned_start"] >= 0 and generation.forgets and generation.cuts[block]:
            got["pinned_start"] = generation.old_anchor[name] * generation.block_tokens
        _check_indices(report, label, got, call["after"], generation)
        if clean and name == "pos" and block == len(generation.cuts) - 1:
            check_final(case, report, cache)
        if clean:
            generation.finish(name, block)


def _indices(cache: PagedKVCache, block: int, generation: Generation) -> dict[str, int]:
    """The state of a cache in the original's terms: tokens, pages in order of time."""
    tokens, pages = generation.block_tokens, sorted(cache.order)
    pinned = generation.pins_shots and any(generation.cuts[:block])
    return {
        "global_end_index": (block + 1) * tokens,
        "local_end_index": len(pages) * tokens,
        "pinned_start": pages.index(cache.shot_start) * tokens if pinned else -1,
        "pinned_len": tokens if pinned else 0,
    }


def _check_indices(
    report: Report,
    label: str,
    got: dict[str, int],
    want: Mapping[str, int],
    generation: Generation,
) -> None:
    """Compare all indices, but not where the original keeps an anchor that lies in the sink."""
    compared = dict(want)
    if (
        0
        <= got["pinned_start"]
        < generation.how["sink_size"] // generation.block_frames * (generation.block_tokens)
    ):
        got, compared = ({k: v for k, v in x.items() if "pinned" not in k} for x in (got, compared))
    report.equal(f"{label} indices", got, compared)


def _check_final_cache(case: Case, report: Report, cache: PagedKVCache) -> None:
    rtol, atol = tolerance(case)
    order = torch.tensor(cache.order).argsort()  # the original keeps pages in order of time
    for layer in range(cache.layout.layers):
        for kind, held in zip("kv", cache.read(layer), strict=True):
            want = case.tensors.get(f"output.final_cache.layer{layer}.{kind}")
            if want is None:
                continue
            got = held.unflatten(1, (len(order), -1))[:, order].flatten(1, 2)
            report.close(f"final {kind}{layer}", got, want[:, : got.shape[1]], rtol, atol)


def _generate(case: Case, report: Report, near: Near, generation: Generation) -> None:
    schedule, guidance = generation.schedule, generation.guidance
    if "output.timesteps" in case.tensors:
        got = torch.tensor(schedule.timesteps)
        report.equal("timesteps", got, case.tensors["output.timesteps"].float())
    noise = _frames_second(case.tensors["input.noise"])
    offset, done = 0.0, []
    for block in range(len(generation.cuts)):
        if generation.cuts[block]:
            offset += generation.shot_offset
        if block < generation.given_blocks:
            frames = slice(block * generation.block_frames, (block + 1) * generation.block_frames)
            latents = _frames_second(generation.given[:, frames])
        else:
            start = (block - generation.given_blocks) * generation.block_frames
            own = noise[:, :, start : start + generation.block_frames]
            latents = _denoise(generation, block, own, offset, schedule, guidance)
        for name in generation.texts if guidance != 1 else ("pos",):
            timesteps = torch.zeros(latents.shape[0], generation.block_frames)
            generation(name, block, latents, timesteps, offset, True)
            generation.finish(name, block)
        done.append(latents)
    got = _frames_second(torch.cat(done, dim=2))
    want = case.tensors["output.latents"]
    report.close("latents", got, want, *near(want))


def _denoise(
    generation: Generation, block: int, noise: Tensor, offset: float, schedule, guidance: float
) -> Tensor:
    image = generation.image if block == 0 else None

    def constrain(x: Tensor) -> Tensor:
        return x if image is None else torch.cat((_frames_second(image), x[:, :, 1:]), dim=2)

    def denoise(x: Tensor, timestep: float) -> Tensor:
        timesteps = torch.full((x.shape[0], x.shape[2]), timestep)
        if image is not None:
            timesteps[:, 0] = 0
        flow = generation("pos", block, x, timesteps, offset, False)
        if guidance == 1:
            return flow
        return guide(flow, generation("neg", block, x, timesteps, offset, False), guidance)

    return unipc(denoise, noise, schedule, constrain=constrain)


def _frames_second(x: Tensor) -> Tensor:
    """[batch, frames, channels, ..] to [batch, channels, frames, ..], and back."""
    return x.transpose(1, 2)
