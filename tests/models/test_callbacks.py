"""What callers are told while a video is made, by steps and by blocks, and how they stop it."""

import asyncio
import math

import numpy as np
import pytest
import torch

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline, StepReport
from longlive_models.callbacks import asks_to_stop, require_callable
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from tests.models.tiny_pipeline import FPS, tiny_pipeline

PROMPT = "a red circle"
STEPS = 2


def on_lane(lane: str) -> LongLivePipeline:
    return tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane=lane)))


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_each_step_is_told_in_order_and_changes_nothing(lane):
    pipe, steps = on_lane(lane), []
    video = pipe(PROMPT, seconds=2, seed=3, on_step=steps.append)
    assert [(s.block, s.blocks, s.step, s.steps) for s in steps] == [
        (block, 3, step, STEPS) for block in range(3) for step in range(STEPS)
    ]
    assert_bitwise_equal(video.frames, pipe(PROMPT, seconds=2, seed=3).frames)


def test_a_step_says_its_noise_level_and_its_latents():
    pipe, steps = tiny_pipeline(), []
    sampler = pipe.generator([0], pipe.settings).sampler.schedule(0)
    pipe(PROMPT, seconds=1, seed=3, on_step=steps.append)
    first, last = steps[0], steps[STEPS - 1]
    assert [(s.timestep, s.sigma) for s in (first, last)] == [
        (sampler.timesteps[0], sampler.sigmas[1]),
        (sampler.timesteps[1], 0.0),
    ]
    made = next(pipe.generator([3], pipe.settings).blocks([pipe.plan(PROMPT, seconds=1)], 1))
    assert_bitwise_equal(last.latents, made.latents)
    assert not torch.equal(first.latents, last.latents)
    assert first.latents.shape == (1, 4, 2, *pipe.spec.latent_size)


def test_a_stream_without_an_end_says_that_it_has_none():
    steps: list[StepReport] = []
    with tiny_pipeline().stream(PROMPT, seconds=math.inf, on_step=steps.append) as stream:
        next(stream)
    assert [s.blocks for s in steps] == [None] * STEPS


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_each_block_is_told_before_it_comes_out(lane):
    told, seen = [], []
    for block in on_lane(lane).stream(PROMPT, seconds=2, on_block=told.append):
        seen.append((block.index, len(told)))
        assert told[-1] is block
    assert seen == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("stop", [0, 1])
def test_false_for_a_block_makes_it_the_last(lane, stop):
    pipe = on_lane(lane)
    video = pipe(PROMPT, seconds=4, seed=1, on_block=lambda block: block.index < stop)
    whole = pipe(PROMPT, seconds=4, seed=1).frames
    assert_bitwise_equal(video.frames, whole[: 5 + 8 * stop])


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("stop", [1, 2])
def test_false_for_a_step_keeps_the_blocks_before_it(lane, stop):
    pipe = on_lane(lane)
    video = pipe(PROMPT, seconds=4, seed=1, on_step=lambda s: (s.block, s.step) < (stop, 1))
    whole = pipe(PROMPT, seconds=4, seed=1).frames
    assert_bitwise_equal(video.frames, whole[: 5 + 8 * (stop - 1)])


def test_false_in_the_first_block_gives_a_video_without_frames(tmp_path):
    video = tiny_pipeline()(PROMPT, seconds=4, on_step=lambda step: False)
    assert (tuple(video.frames.shape), video.fps) == ((0, 32, 32, 3), FPS)
    assert "without frames" in video._repr_html_()
    with pytest.raises(ValueError, match="has no frames, as it was stopped before its first"):
        video.save(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_what_a_callback_raises_comes_out_after_the_blocks_before_it(lane):
    def fails(step: StepReport) -> None:
        if (step.block, step.step) == (2, 1):
            raise RuntimeError("enough")

    seen = []
    with pytest.raises(RuntimeError, match="enough"):
        for block in on_lane(lane).stream(PROMPT, seconds=4, on_step=fails):
            seen.append(block.index)
    assert seen == [0, 1]


def test_a_stream_stopped_after_a_block_can_be_written_down_and_gone_on_with(tmp_path):
    pipe = on_lane("thread")
    whole = [block.frames for block in pipe.stream(PROMPT, seconds=3, seed=2)]
    for block in pipe.stream(PROMPT, seconds=3, seed=2, on_block=lambda block: block.index < 1):
        last = block.index
        if last == 1:
            break
    stream = pipe.stream(PROMPT, seconds=3, seed=2, on_block=lambda block: block.index < 1)
    next(stream), next(stream)
    stream.snapshot(tmp_path / "s")
    assert next(stream, None) is None
    steps, blocks = [], []
    again = pipe.resume(tmp_path / "s", on_step=steps.append, on_block=blocks.append)
    assert_bitwise_equal(torch.cat([b.frames for b in again]), torch.cat(whole[2:]))
    assert [block.index for block in blocks] == [2, 3]
    assert {step.block for step in steps} == {3}  # block 2 had been made ahead


def test_a_stream_stopped_within_a_block_has_no_state_to_keep(tmp_path):
    stream = on_lane("thread").stream(PROMPT, seconds=4, on_step=lambda step: step.block < 1)
    assert next(stream).index == 0
    for act in (lambda: stream.snapshot(tmp_path / "s"), stream.fork, lambda: stream.prompt("a")):
        with pytest.raises(ValueError, match="of a stream that has ended.*on_step answers False"):
            act()
    assert list(stream) == []
    assert list(tmp_path.iterdir()) == []


def test_a_fork_tells_the_same_callbacks():
    steps, blocks = [], []
    stream = tiny_pipeline().stream(PROMPT, seconds=2, on_step=steps.append, on_block=blocks.append)
    next(stream)
    fork = stream.fork()
    steps.clear(), blocks.clear()
    assert len(list(fork)) == len(blocks) == 2
    assert len(steps) == 2 * STEPS


def test_an_asynchronous_stream_tells_and_stops_too():
    async def watch() -> list[int]:
        stream = tiny_pipeline().stream(PROMPT, seconds=4, on_block=lambda block: block.index < 1)
        return [block.index async for block in stream]

    assert asyncio.run(watch()) == [0, 1]


@pytest.mark.parametrize("answer", [False, np.bool_(False), torch.tensor(False)])
def test_only_false_stops(answer):
    assert asks_to_stop(answer, "on_step")


@pytest.mark.parametrize(
    "answer", [None, True, 0, "", [], np.bool_(True), torch.tensor(True), np.zeros(1)]
)
def test_nothing_else_stops(answer):
    assert not asks_to_stop(answer, "on_step")


def test_an_answer_that_would_replace_latents_is_refused():
    with pytest.raises(ValueError, match="on_step answered .* cannot replace it.*Return None"):
        tiny_pipeline()(PROMPT, seconds=1, on_step=lambda step: {"latents": step.latents})


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="on_step is a function of one report, got 5"):
        require_callable("on_step", 5)
    require_callable("on_step", None)
    require_callable("on_step", print)
