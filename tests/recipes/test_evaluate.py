"""The evaluation: right videos score full marks, wrong ones do not, and every suite is filled."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from longlive_models.finite import NonFiniteVideo
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX, ShotPlan
from longlive_models.sampling_notes import SamplingWarning
from longlive_models.stream import to_frames
from longlive_recipes import evaluate
from longlive_recipes.evaluate import (
    STEERED,
    Evaluate,
    draw_looks,
    generate_clips,
    run,
    steered_blocks,
)
from longlive_recipes.moving_shapes.attributes import (
    MOTIONS,
    ShapeAttributes,
    is_held_out,
    possible_attributes,
)
from longlive_recipes.moving_shapes.clips import ClipFormat, base_caption, draw, single_shot
from tests.models.tiny_pipeline import tiny_pipeline, write_tiny_folder

LOOKS = {
    base_caption(look): look for motion in MOTIONS for look in possible_attributes("any", motion)
}
WANTED = tuple(look for look in LOOKS.values() if look.background == "black")[::40]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Evaluate:
    """A tiny model, plain captions, a suite of each kind."""
    folder = write_tiny_folder(tmp_path_factory.mktemp("tiny"))
    return Evaluate(
        model=str(folder),
        device="cpu",
        seconds=2.0,
        seen=3,
        heldout=2,
        storyboards=2,
        long=1,
        long_seconds=4.0,
        tail_seconds=2.0,
        paraphrases=False,
        batch=2,
    )


def drawings(pipeline, settings, plans: list[ShotPlan], seeds) -> np.ndarray:
    """Stands for a model that draws exactly what the prompts say, 64 pixels wide."""
    timing, clips = plans[0].timing, []
    world = ClipFormat(
        size=64,
        fps=timing.fps,
        first_block_frames=timing.frames(1),
        block_frames=timing.frames(2) - timing.frames(1),
    )
    for plan, seed in zip(plans, seeds, strict=True):
        parts = []
        for prompt, length in zip(plan.prompts, plan.lengths, strict=True):
            look = LOOKS[prompt.removeprefix(SCENE_CUT_PREFIX)]
            made = single_shot(look, seed=seed + 50, clip_format=world, blocks=plan.blocks)
            first = sum(len(part) for part in parts)
            end = timing.frames(length) if not parts else timing.frames(plan.blocks)
            parts.append(to_frames(draw([made])[0])[first:end])
        clips.append(torch.cat(parts)[: plan.frames])
    return torch.stack(clips).numpy()


def test_a_model_that_draws_what_it_is_told_scores_full_marks(config, monkeypatch):
    monkeypatch.setattr(evaluate, "generate_clips", drawings)
    suites = run(replace(config, seconds=4.0, seen=6, seed=1))["suites"]
    assert list(suites) == ["seen", "heldout", "storyboards", "long", "long_throughout"]
    assert [suites[name]["videos"] for name in suites] == [6, 2, 4, 1, 2]
    for name in ("seen", "heldout", "long", "long_throughout"):
        scores = suites[name]
        assert scores["colour"] == scores["background"] == 1, (name, scores)
        assert scores["shape"] == scores["motion"] == scores["all_four"] == 1, (name, scores)
        assert scores["steadiness"] == 1
        assert set(scores["motion_by_kind"].values()) == {1}
        assert scores["right"] == ["1111"] * scores["videos"]
    assert suites["long"]["drift_per_second"] < 0.05
    assert suites["storyboards"]["background"] == 1
    assert suites["storyboards"]["cut_at_the_block"] == 1


def test_a_model_that_draws_something_else_does_not(config, monkeypatch):
    def others(pipeline, settings, plans, seeds):
        wrong = {look: base_caption(look._replace(background="teal")) for look in LOOKS.values()}
        turned = [replace(p, prompts=tuple(wrong[LOOKS[t]] for t in p.prompts)) for p in plans]
        return drawings(pipeline, settings, turned, seeds)

    monkeypatch.setattr(evaluate, "generate_clips", others)
    monkeypatch.setattr(evaluate, "draw_looks", lambda rng, split, count: list(WANTED[:count]))
    suites = run(replace(config, seconds=4.0, heldout=0, storyboards=0, long=0))["suites"]
    assert suites["seen"]["background"] == suites["seen"]["all_four"] == 0
    assert suites["seen"]["colour"] == 1
    assert {right[:3] for right in suites["seen"]["right"]} == {"110"}


def test_shapes_and_motions_are_told_by_the_motion_that_was_wanted(config, monkeypatch):
    def shapes_of_spins_are_wrong(pipeline, settings, plans, seeds):
        other = {
            look: base_caption(look._replace(shape="heart") if look.motion == "spins" else look)
            for look in LOOKS.values()
        }
        turned = [replace(p, prompts=tuple(other[LOOKS[t]] for t in p.prompts)) for p in plans]
        return drawings(pipeline, settings, turned, seeds)

    spins, moves = (
        ShapeAttributes(shape="square", colour="red", background="black", motion=motion)
        for motion in ("spins", "moves left")
    )
    monkeypatch.setattr(evaluate, "generate_clips", shapes_of_spins_are_wrong)
    monkeypatch.setattr(evaluate, "draw_looks", lambda rng, split, count: [spins, moves, moves])
    scores = run(replace(config, seconds=4.0, seen=3, heldout=0, storyboards=0, long=0))
    assert scores["suites"]["seen"]["shape_by_motion"] == {"moves left": 1, "spins": 0}
    assert scores["suites"]["seen"]["motion_by_kind"] == {"moves left": 1, "spins": 1}


def test_a_long_video_is_judged_by_its_end_and_throughout(config, monkeypatch):
    def late(pipeline, settings, plans, seeds):
        clips = drawings(pipeline, settings, plans, seeds)
        clips[:, : -round(config.tail_seconds * plans[0].timing.fps)] = 128  # nothing to see
        return clips

    monkeypatch.setattr(evaluate, "generate_clips", late)
    suites = run(replace(config, seen=0, heldout=0, storyboards=0))["suites"]
    assert suites["long"]["all_four"] == 1
    assert suites["long"]["steadiness"] < 1  # that is of the whole video
    assert suites["long_throughout"]["right"] == ["0000", "1111"]
    frame = run(replace(config, seen=0, heldout=0, storyboards=0, tail_seconds=0.01))["suites"]
    assert frame["long_throughout"]["videos"] == 32  # each frame is a stretch of its own


def test_every_video_of_a_suite_has_a_seed_of_its_own(config, monkeypatch):
    asked = []

    def noted(pipeline, settings, plans, seeds):
        asked.append(list(seeds))
        return drawings(pipeline, settings, plans, seeds)

    monkeypatch.setattr(evaluate, "generate_clips", noted)
    run(replace(config, seen=5, heldout=0, storyboards=0, long=0, seed=10))
    assert asked == [[10, 11], [12, 13], [14]]


def test_a_result_is_plain_data_that_says_how_it_was_made(config):
    result = run(replace(config, seen=2, heldout=0, storyboards=1, steps=1, guidance=1.0))
    stored = json.loads(json.dumps(result))
    assert stored == result
    assert (stored["steps"], stored["guidance"]) == (1, 1.0)
    assert len(stored["model_sha256"]) == 64
    assert set(stored["suites"]) == {"seen", "storyboards", "long", "long_throughout"}
    assert stored["config"]["seen"] == 2
    assert stored["hardware"]["device"] == "cpu"


def test_sampling_that_a_model_was_not_trained_for_is_said_once(config, monkeypatch):
    monkeypatch.setattr(evaluate, "generate_clips", drawings)
    wanted = replace(config, heldout=0, storyboards=0, long=0, sampler="few_step")
    with pytest.warns(SamplingWarning, match="this model is none") as heard:
        run(wanted)
    assert [one.category for one in heard].count(SamplingWarning) == 1


def test_clips_are_the_pipelines_videos():
    """Within a step of brightness: the clips of a batch are made side by side."""
    pipe = tiny_pipeline()
    plans = [pipe.plan(text, seconds=1.5) for text in ("a red circle", "a blue square")]
    clips = generate_clips(pipe, pipe.settings, plans, [4, 5])
    assert (clips.shape, clips.dtype) == ((2, 12, 32, 32, 3), np.uint8)
    alone = pipe("a blue square", seconds=1.5, seed=5).frames.numpy()
    assert np.abs(clips[1].astype(int) - alone.astype(int)).max() <= 1


def test_a_steered_block_is_that_of_a_stream_with_the_event():
    pipe = tiny_pipeline(guidance=1.0)
    prompts = ("a red circle", "a blue square")
    for name, block in steered_blocks(pipe, pipe.settings, [prompts], [4]).items():
        event = {"block": 2, "text": prompts[1], **STEERED[name]}
        seconds = pipe.timing.seconds(3)
        *_, last = pipe.stream(prompts[0], seconds=seconds, seed=4, events=[event])
        assert np.array_equal(block[0], last.frames.numpy()), name


def test_ways_of_steering_are_judged_by_the_new_prompt(config, monkeypatch):
    """A model that minds a cut alone: it scores there, and nowhere else."""

    def stubborn(pipeline, settings, prompts, seeds):
        plans = [
            [pipeline.plan(text, seconds=4.0) for text in texts]
            for texts in zip(*prompts, strict=True)
        ]
        old, new = (drawings(pipeline, settings, some, seeds) for some in plans)
        return {name: new if name == "steered_cut" else old for name in STEERED}

    monkeypatch.setattr(evaluate, "steered_blocks", stubborn)
    wanted = replace(config, seen=0, heldout=0, storyboards=0, long=0, steered=3)
    suites = run(wanted)["suites"]
    assert {name: row["colour"] for name, row in suites.items()} == {
        name: float(name == "steered_cut") for name in STEERED
    }
    assert all(row["videos"] == 3 for row in suites.values())


def test_looks_are_of_their_split_and_of_every_motion():
    rng = np.random.default_rng(0)
    drawn = {split: draw_looks(rng, split, 60) for split in ("train", "heldout")}
    assert {split: len(some) for split, some in drawn.items()} == {"train": 60, "heldout": 60}
    assert not any(is_held_out(look) for look in drawn["train"])
    assert all(is_held_out(look) for look in drawn["heldout"])
    assert {look.motion for look in drawn["train"]} == set(MOTIONS)
    assert draw_looks(np.random.default_rng(0), "train", 60) == drawn["train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": 0, "heldout": 0, "storyboards": 0, "long": 0}, "an evaluation needs prompts"),
        ({"seen": -1}, "an evaluation needs prompts"),
        ({"batch": 0}, "batch is at least 1, got 0"),
        ({"workers": 0}, "workers is at least 1"),
        ({"seconds": -1.0}, "seconds is above 0, got -1.0"),
        ({"seconds": float("nan")}, "seconds is a finite number, got nan"),
        ({"long_seconds": 1e18}, "long_seconds is at most 3600"),
        ({"seen": 10**9}, "a number of prompts is at most 1000000"),
        ({"batch": 2.0}, "batch is a whole number, got 2.0"),
        ({"steps": 1001}, "steps is at most 1000, got 1001"),
        ({"guidance": 1e308}, "guidance is at most 1000"),
        ({"seed": -1}, "seed is at least 0"),
        ({"kv_cache": "fp7"}, "kv_cache='fp7' is no precision"),
        ({"tail_seconds": 99.0}, "tail_seconds=99.0 is more than long_seconds=60.0"),
    ],
)
def test_an_evaluation_of_nothing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Evaluate(**change)


@pytest.mark.parametrize("part, name", [("transformer", "head.head.bias"), ("vae", "conv2.bias")])
def test_numbers_that_are_none_are_not_judged(part, name):
    pipe = tiny_pipeline()
    with torch.no_grad():
        getattr(pipe, part).get_parameter(name)[0] = torch.nan
    plan = pipe.plan("a red circle", seconds=1)
    with pytest.raises(NonFiniteVideo, match=f"block 0.*{name}"):
        generate_clips(pipe, pipe.settings, [plan], [0])
    with pytest.raises(NonFiniteVideo, match="block 0"):
        steered_blocks(pipe, pipe.settings, [("a red circle", "a blue square")], [0])


def test_suites_are_told_as_they_end_and_kept_when_one_is_interrupted(config, monkeypatch):
    told, kept = [], []

    def until_the_storyboards(pipeline, settings, plans, seeds):
        if len(plans[0].prompts) > 1:
            raise KeyboardInterrupt
        return drawings(pipeline, settings, plans, seeds)

    monkeypatch.setattr("longlive_recipes.evaluate.generate_clips", until_the_storyboards)
    wanted = replace(config, seen=3, heldout=0, storyboards=2, long=1, steered=0)
    result = run(
        wanted, made=lambda *count: told.append(count), stored=lambda r: kept.append(dict(r))
    )
    assert told[0] == ("seen", 0, 6)
    assert told[-1] == ("storyboards", 3, 6)
    assert [(r["complete"], list(r["suites"])) for r in [*kept, result]] == [(False, ["seen"])] * 2
    assert result["signal"] == 2
    with pytest.raises(KeyboardInterrupt):
        run(replace(wanted, seen=0))
