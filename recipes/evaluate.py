"""Score a model on moving shapes: generate from captions, judge from pixels alone.

The videos come in suites: pairs of attributes seen in training, held-out pairs, storyboards with a
cut, long videos (their end, and all of their stretches), and the first block after a change of the
prompt, with a suite for each way to treat the past. In a suite's result, ``right`` has a text for
each video: 1 or 0 for its shape, colour, background and motion, as in "1101". By them two models
with the same settings are compared video by video (`longlive bench pairs`).

Command:  longlive evaluate --recipe pocket          Measured: see benchmarks/results/
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from longlive_models.latent_block import LatentBlock
from longlive_models.pipeline import LongLivePipeline
from longlive_models.precision import in_short
from longlive_models.prompts.steering import LiveSchedule
from longlive_models.prompts.storyboard import Shot, ShotPlan, Storyboard
from longlive_models.runtime import Runtime
from longlive_models.sampling_notes import warn_of_sampling
from longlive_models.settings import GenerationSettings
from longlive_models.vae import StreamState
from longlive_models.video.blocks import decoder
from longlive_recipes.configs.evaluate import Evaluate as Evaluate
from longlive_recipes.configs.evaluate import pocket as pocket
from longlive_recipes.configs.evaluate import pocket_quick as pocket_quick
from longlive_recipes.generation.interrupts import signal_of
from longlive_recipes.moving_shapes.attributes import (
    MOTIONS,
    ShapeAttributes,
    Split,
    possible_attributes,
)
from longlive_recipes.moving_shapes.clips import base_caption, caption
from longlive_recipes.moving_shapes.judge import (
    ClipVerdict,
    ShotVerdict,
    judge_clip,
    judge_shot,
    score,
)
from longlive_recipes.run_record import run_record

ATTRIBUTES = ("shape", "colour", "background", "motion")
STEERED: dict[str, dict[str, Any]] = {
    "steered_keep": {"memory": "keep"},
    "steered_recache": {"memory": "recache"},
    "steered_cut": {"memory": "cut"},
    "steered_forget": {"memory": "cut", "forget": True},
}
PAST_BLOCKS = 2  # before a video is steered


def run(
    config: Evaluate,
    *,
    runtime: Runtime | None = None,
    made: Callable[[str, int, int], None] | None = None,
    stored: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Generate and judge every suite.

    Args:
        config: the config of the evaluation.
        runtime: the runtime made from the config; None makes one.
        made: called with a suite's name, the number of videos generated so far in all suites, and
            the number that there will be.
        stored: called after each suite with the result so far; its ``complete`` is False.

    Returns:
        The scores of each suite and the record of the run, as values that JSON can hold. After an
        interrupt it has the suites that were complete: ``complete`` is False, and ``signal`` is
        the number of the signal.

    Raises:
        KeyboardInterrupt: an interrupt before the first suite was complete.
    """
    runtime = Runtime.choose(config) if runtime is None else runtime
    pipeline = LongLivePipeline.load(config.model, runtime)
    settings = pipeline.settings.override(
        sampler=config.sampler, steps=config.steps, guidance=config.guidance
    )
    warn_of_sampling(pipeline.settings, settings, adapted=bool(config.lora))
    suites: dict[str, Any] = {}

    def result(*, complete: bool) -> dict[str, Any]:
        return {
            "complete": complete,
            "suites": suites,
            "sampler": settings.sampler,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "model_sha256": pipeline.fingerprint,
            "backends": list(in_short(pipeline.receipts())),
            **run_record(config, pipeline.runtime.device),
        }

    try:
        for scores in _suites(pipeline, settings, config, _Count(config, made)):
            suites |= scores
            if stored is not None:
                stored(result(complete=False))
    except KeyboardInterrupt as interrupt:
        if not suites:
            raise
        return {**result(complete=False), "signal": signal_of(interrupt)}
    return result(complete=True)


class _Count:
    """Counts the videos that an evaluation has generated, and reports the count to ``made``."""

    def __init__(self, config: Evaluate, made: Callable[[str, int, int], None] | None) -> None:
        self._made = made
        self._done = 0
        parts = (config.seen, config.heldout, config.storyboards, config.long, config.steered)
        self._total = sum(parts)
        self.suite = ""

    def add(self, videos: int) -> None:
        self._done += videos
        if self._made is not None:
            self._made(self.suite, self._done, self._total)

    def begin(self, suite: str) -> None:
        self.suite = suite
        self.add(0)


def _suites(
    pipeline: LongLivePipeline, settings: GenerationSettings, config: Evaluate, count: _Count
) -> Iterator[dict[str, Any]]:
    """Yield scores by suite name, one suite at a time; suites made of the same videos together."""
    rng = np.random.default_rng(config.seed)
    setting = (pipeline, settings, config, rng, count)
    splits: tuple[tuple[str, Split, int], ...] = (
        ("seen", "train", config.seen),
        ("heldout", "heldout", config.heldout),
    )
    for name, split, videos in splits:
        if videos:
            count.begin(name)
            yield {name: _single_shots(*setting, split, videos)}
    if config.storyboards:
        count.begin("storyboards")
        yield {"storyboards": _storyboards(*setting)}
    if config.long:
        count.begin("long")
        yield _long(*setting)
    if config.steered:
        count.begin("steered")
        yield _steered(*setting)


def draw_looks(rng: np.random.Generator, split: Split, count: int) -> list[ShapeAttributes]:
    """Draw ``count`` looks of ``split``; every motion is as likely, as in training clips."""
    drawn: list[ShapeAttributes] = []
    while len(drawn) < count:
        choices = possible_attributes(split, MOTIONS[rng.integers(len(MOTIONS))])
        if choices:
            drawn.append(choices[rng.integers(len(choices))])
    return drawn


@torch.no_grad()
def generate_clips(
    pipeline: LongLivePipeline,
    settings: GenerationSettings,
    plans: Sequence[ShotPlan],
    seeds: Sequence[int],
) -> np.ndarray:
    """Generate videos in one batch: uint8 [videos, frames, height, width, 3], on the CPU.

    Args:
        pipeline: the model.
        settings: sampler, steps and guidance.
        plans: a plan for each video; all have as many blocks and frames as the first.
        seeds: a seed for each video.
    """
    generator = pipeline.generator(seeds, settings)
    decode = decoder(pipeline.vae, to_host=False)
    state, pieces = None, []
    for block in generator.blocks(plans, plans[0].blocks):
        frames, state = _decoded(pipeline, decode, block, state)
        pieces.append(frames)
    return torch.cat(pieces, 1)[:, : plans[0].frames].numpy()


@torch.no_grad()
def steered_blocks(
    pipeline: LongLivePipeline,
    settings: GenerationSettings,
    prompts: Sequence[tuple[str, str]],
    seeds: Sequence[int],
) -> dict[str, np.ndarray]:
    """Generate the first block after a change of the prompt, in each way of ``STEERED``.

    Args:
        pipeline: the model.
        settings: sampler, steps and guidance.
        prompts: for each video, the prompts before and after the change.
        seeds: a seed for each video.

    Returns:
        By name of the way, uint8 [videos, frames, height, width, 3]. The blocks before the change
        are the same for all ways.
    """
    generator = pipeline.generator(seeds, settings)
    decode = decoder(pipeline.vae, to_host=False)
    plans = [pipeline.plan(before, seconds=math.inf) for before, _ in prompts]
    state, blocks = None, {}
    for made in generator.blocks(plans, PAST_BLOCKS):
        _, state = _decoded(pipeline, decode, made, state)
    texts = [after for _, after in prompts]
    for name, change in STEERED.items():
        steered = [
            LiveSchedule(plan, [{"block": PAST_BLOCKS, "text": text, **change}]).block(PAST_BLOCKS)
            for plan, text in zip(plans, texts, strict=True)
        ]
        block = generator.fork().generate(PAST_BLOCKS, steered)
        assert state is not None
        past = state.share()  # each way spends its own
        frames, _ = _decoded(pipeline, decode, block, past)
        blocks[name] = frames.numpy()
    return blocks


def _decoded(
    pipeline: LongLivePipeline, decode: Callable, block: LatentBlock, state: StreamState | None
) -> tuple[torch.Tensor, StreamState]:
    """Decode a block: uint8 [videos, frames, height, width, 3] on the CPU, and the VAE's state."""
    block.checks.require(block.index, {"transformer": pipeline.transformer})
    latents = block.latents.to(pipeline.vae.conv2.weight.device)
    decoded, state = decode(latents, state)
    decoded.checks.require(block.index, {"VAE": pipeline.vae})
    return decoded.frames.cpu(), state


def _generate(
    pipeline: LongLivePipeline,
    settings: GenerationSettings,
    config: Evaluate,
    count: _Count,
    stories: Sequence[Storyboard],
    seconds: float | None,
) -> list[np.ndarray]:
    clips: list[np.ndarray] = []
    for first in range(0, len(stories), config.batch):
        some = stories[first : first + config.batch]
        plans = [pipeline.plan(story, seconds=seconds) for story in some]
        seeds = [config.seed + first + place for place in range(len(some))]
        clips.extend(generate_clips(pipeline, settings, plans, seeds))
        count.add(len(some))
    return clips


def _single_shots(
    pipeline: LongLivePipeline,
    settings: GenerationSettings,
    config: Evaluate,
    rng: np.random.Generator,
    count: _Count,
    split: Split,
    videos: int,
) -> dict[str, Any]:
    wanted = draw_looks(rng, split, videos)
    stories = [Storyboard.of(_words(look, n, config, rng)) for n, look in enumerate(wanted)]
    clips = _generate(pipeline, settings, config, count, stories, config.seconds)
    fps = pipeline.settings.fps
    return _summary(_judge(judge_shot, clips, fps, config.workers), wanted)


def _long(
    pipeline: LongLivePipeline,
    settings: GenerationSettings,
    config: Evaluate,
    rng: np.random.Generator,
    count: _Count,
) -> dict[str, dict[str, Any]]:
    """Score the last ``tail_seconds`` of long videos, and all their stretches of that length."""
    wanted = draw_looks(rng, "train", config.long)
    stories = [Storyboard.of(base_caption(look)) for look in wanted]
    clips = _generate(pipeline, settings, config, count, stories, config.long_seconds)
    fps = pipeline.settings.fps
    length = pipeline.timing.frames_in(config.tail_seconds)
    stretches = [
        (clip[first : first + length], look)
        for clip, look in zip(clips, wanted, strict=True)
        for first in range(0, len(clip) - length + 1, length)
    ]
    parts, looks_of_parts = zip(*stretches, strict=True)
    tails = [clip[-length:] for clip in clips]
    verdicts = _judge(judge_shot, [*clips, *tails, *parts], fps, config.workers)
    films = len(clips)
    whole, ends = verdicts[:films], verdicts[films : 2 * films]
    throughout = verdicts[2 * films :]
    return {
        "long": {
            **_summary(ends, wanted),
            "steadiness": float(np.mean([verdict.steadiness for verdict in whole])),
            "drift_per_second": float(np.mean([v.drift_per_second for v in whole])),
        },
        "long_throughout": _summary(throughout, looks_of_parts),
    }


def _storyboards(
    pipeline: LongLivePipeline,
    settings: GenerationSettings,
    config: Evaluate,
    rng: np.random.Generator,
    count: _Count,
) -> dict[str, Any]:
    """Score storyboards of two shots of two blocks: where the cut is, and what each shot shows."""
    pairs = [draw_looks(rng, "train", 2) for _ in range(config.storyboards)]
    stories = [
        Storyboard(shots=tuple(Shot(prompt=base_caption(look), blocks=2) for look in pair))
        for pair in pairs
    ]
    clips = _generate(pipeline, settings, config, count, stories, None)
    timing = pipeline.timing
    edge = timing.frames(2)
    verdicts: list[ClipVerdict] = _judge(judge_clip, clips, timing.fps, config.workers)
    found = [any(abs(cut - edge) <= 2 for cut in verdict.cuts) for verdict in verdicts]
    shots = [judge_shot(part, timing.fps) for clip in clips for part in (clip[:edge], clip[edge:])]
    result = _summary(shots, [look for pair in pairs for look in pair])
    return {"cut_at_the_block": float(np.mean(found)), **result}


def _steered(
    pipeline: LongLivePipeline,
    settings: GenerationSettings,
    config: Evaluate,
    rng: np.random.Generator,
    count: _Count,
) -> dict[str, dict[str, Any]]:
    """Score the first block after a new prompt, which always names another colour."""
    pairs: list[list[ShapeAttributes]] = []
    while len(pairs) < config.steered:
        before, after = draw_looks(rng, "train", 2)
        pairs += [[before, after]] if before.colour != after.colour else []
    clips: dict[str, list[np.ndarray]] = {name: [] for name in STEERED}
    for first in range(0, len(pairs), config.batch):
        some = pairs[first : first + config.batch]
        prompts = [(base_caption(before), base_caption(after)) for before, after in some]
        seeds = [config.seed + first + place for place in range(len(some))]
        for name, blocks in steered_blocks(pipeline, settings, prompts, seeds).items():
            clips[name].extend(blocks)
        count.add(len(some))
    wanted, fps = [after for _, after in pairs], pipeline.settings.fps
    return {
        name: _summary(_judge(judge_shot, blocks, fps, config.workers), wanted)
        for name, blocks in clips.items()
    }


def _judge(judge: Any, clips: Sequence[np.ndarray], fps: float, workers: int) -> list[Any]:
    if workers == 1:
        return [judge(clip, fps) for clip in clips]
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=torch.set_num_threads,  # as many threads as cores in each would be in the way
        initargs=(1,),
    ) as pool:
        return list(pool.map(judge, clips, [fps] * len(clips), chunksize=4))


def _summary(verdicts: Sequence[ShotVerdict], wanted: Sequence[ShapeAttributes]) -> dict[str, Any]:
    scores = np.array([score(v, w) for v, w in zip(verdicts, wanted, strict=True)], dtype=float)
    rates = dict(zip(ATTRIBUTES, scores.mean(0).tolist(), strict=True))
    videos_of = {
        motion: rows
        for motion in MOTIONS
        if (rows := np.array([look.motion == motion for look in wanted])).any()
    }
    shapes, motions = (
        {motion: float(scores[rows, column].mean()) for motion, rows in videos_of.items()}
        for column in (ATTRIBUTES.index("shape"), ATTRIBUTES.index("motion"))
    )
    return {
        "videos": len(wanted),
        **rates,
        "all_four": float(scores.all(1).mean()),
        "shape_by_motion": shapes,
        "motion_by_kind": motions,
        "steadiness": float(np.mean([verdict.steadiness for verdict in verdicts])),
        "right": ["".join(str(int(right)) for right in row) for row in scores],
    }


def _words(look: ShapeAttributes, place: int, config: Evaluate, rng: np.random.Generator) -> str:
    return caption(look, rng) if config.paraphrases and place % 2 else base_caption(look)
