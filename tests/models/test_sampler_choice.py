"""A sampler and steps by block, chosen for a video: what is made, told, resumed and replayed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from longlive_core.noise import gaussian
from longlive_core.testing import assert_bitwise_equal
from longlive_models import choices
from longlive_models.callbacks import StepReport
from longlive_models.diffusion import SAMPLERS
from longlive_models.stream_snapshot import SnapshotSummary
from tests.models.tiny_pipeline import tiny_pipeline

PROMPT = "a red circle"


def test_names_for_those_without_torch_are_those_of_the_table():
    assert tuple(SAMPLERS) == choices.SAMPLERS
    assert all(row.name == name for name, row in SAMPLERS.items())


@pytest.mark.parametrize("name", choices.SAMPLERS)
def test_a_call_chooses_what_the_settings_choose(name):
    chosen = tiny_pipeline(sampler=name, steps=(3, 2))(PROMPT, seconds=3)
    called = tiny_pipeline()(PROMPT, seconds=3, sampler=name, steps=(3, 2))
    assert_bitwise_equal(called.frames, chosen.frames)
    other = tiny_pipeline()(PROMPT, seconds=3, steps=(3, 2), sampler="unipc")
    assert torch.equal(called.frames, other.frames) == (name == "unipc")


def test_each_step_of_each_block_is_told_with_its_own_schedule():
    reports: list[StepReport] = []
    pipe = tiny_pipeline()
    pipe(PROMPT, seconds=3, sampler="few_step", steps=(3, 1), on_step=reports.append)
    assert [(r.block, r.step, r.steps) for r in reports] == [
        (0, 0, 3),
        (0, 1, 3),
        (0, 2, 3),
        (1, 0, 1),
        (2, 0, 1),
        (3, 0, 1),
    ]
    schedule = SAMPLERS["few_step"].schedule(3, pipe.settings.shift)
    assert [r.timestep for r in reports[:3]] == list(schedule.timesteps)
    assert [r.sigma for r in reports] == [*schedule.sigmas[1:3], 0.0, 0.0, 0.0, 0.0]


def test_noise_of_later_steps_is_that_of_the_seed_the_frame_and_the_step():
    """Latents after a step less what the estimate leaves of them are noise of their own."""
    pipe = tiny_pipeline(sampler="few_step", steps=2, guidance=1.0)
    made = pipe.generator([5], pipe.settings)
    first, second = made._noise(1), made._noise(1, 1)
    size = pipe.transformer.config.frames_per_block
    frames = [frame + 2**40 for frame in range(size, 2 * size)]
    assert_bitwise_equal(second, gaussian(5, frames, (4, 4, 4)).transpose(0, 1)[None])
    assert (first - second).abs().max() > 0.5


@pytest.mark.parametrize("name", choices.SAMPLERS)
def test_a_snapshot_goes_on_with_the_sampler_it_was_begun_with(name, tmp_path):
    pipe, path = tiny_pipeline(), tmp_path / "a.snapshot"
    with pipe.stream(PROMPT, seconds=4, sampler=name, steps=(3, 2)) as stream:
        next(stream)
        stream.snapshot(path)
        rest = [block.frames for block in stream]
    resumed = [block.frames for block in pipe.resume(path)]
    for got, wanted in zip(resumed, rest, strict=True):
        assert_bitwise_equal(got, wanted)
    settings = SnapshotSummary.read(path).origin.settings
    assert (settings["sampler"], settings["steps"]) == (name, [3, 2])


def without_a_sampler(path: Path) -> None:
    """The snapshot as it was written before samplers could be chosen."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(file.metadata()["longlive_stream"])
    del record["origin"]["settings"]["sampler"]
    save_file(tensors, path, metadata={"longlive_stream": json.dumps(record)})


def test_a_snapshot_that_names_no_sampler_goes_on_with_unipc(tmp_path):
    pipe, path = tiny_pipeline(), tmp_path / "a.snapshot"
    with pipe.stream(PROMPT, seconds=3) as stream:
        next(stream)
        stream.snapshot(path)
        rest = [block.frames for block in stream]
    without_a_sampler(path)
    other = tiny_pipeline(sampler="euler")
    for maker in (pipe, other):
        for got, wanted in zip(maker.resume(path), rest, strict=True):
            assert_bitwise_equal(got.frames, wanted)


def test_what_is_no_sampler_or_no_steps_is_refused_before_anything_is_made():
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match="sampler='ddim' is no sampler"):
        pipe.stream(PROMPT, sampler="ddim")
    with pytest.raises(ValueError, match="steps of block 1 is at least 1, got 0"):
        pipe.stream(PROMPT, steps=(4, 0))
    with pytest.raises(ValueError, match="sampler='ddim' is no sampler"):
        replace(pipe.settings.block_sampler, name="ddim")
