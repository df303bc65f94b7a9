"""Storyboards in blocks: lengths, cuts, prefixes, offsets, and what is refused."""

import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from longlive_models.prompts import storyboard
from longlive_models.prompts.storyboard import (
    SCENE_CUT_PREFIX,
    BlockPrompt,
    BlockTiming,
    Shot,
    ShotPlan,
    Storyboard,
    plan_video,
)

TIMING = BlockTiming(fps=12)
TIMINGS = st.builds(
    BlockTiming,
    fps=st.sampled_from([8, 12, 16, 24, 29.97]),
    frames_per_block=st.integers(1, 8),
    temporal_factor=st.sampled_from([1, 4, 8]),
)
PROMPTS = st.text("abc ", min_size=1, max_size=8).filter(str.strip)
LENGTHS = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries({"seconds": st.floats(0.01, 30)}),
    st.fixed_dictionaries({"blocks": st.integers(1, 9)}),
)
SHOTS = st.builds(lambda prompt, length: Shot(prompt=prompt, **length), PROMPTS, LENGTHS)
TIMED = SHOTS.filter(lambda shot: shot.seconds is not None or shot.blocks is not None)


def several(shots):
    return st.lists(shots, min_size=1, max_size=6)


def check_schedule(plan: ShotPlan) -> None:
    """What must hold of every plan, whatever it was made from."""
    starts, anchors = plan.starts, plan.anchors
    assert plan.blocks == sum(plan.lengths) == len(anchors)
    assert all(length >= 1 for length in plan.lengths)
    blocks = [plan.block(index) for index in range(plan.blocks)]
    cuts = [index for index, block in enumerate(blocks) if block.cut]
    assert cuts == list(starts[1:])
    for index, block in enumerate(blocks):
        assert block.shot == sum(start <= index for start in starts) - 1
        assert block.offset == block.shot * plan.shot_offset
        bare = plan.prompts[block.shot]
        assert block.text == (plan.prefix + bare if block.cut else bare)
        shown_before = blocks[max(index - 1, 0)].shot
        assert anchors[index] == starts[shown_before]


def planned(shots, timing, **total):
    """The plan, where every shot without a length of its own has a block."""
    try:
        return Storyboard.of(shots).plan(timing, **total)
    except ValueError as error:
        assume("do not fit" not in str(error))
        raise


@given(several(TIMED), TIMINGS)
def test_each_shot_gets_the_nearest_whole_blocks(shots, timing):
    plan = Storyboard.of(shots).plan(timing)
    check_schedule(plan)
    assert plan.frames == timing.frames(plan.blocks)
    for place, (shot, length) in enumerate(zip(shots, plan.lengths, strict=True)):
        if shot.blocks is not None:
            assert length == shot.blocks
            continue
        before = 0 if place == 0 else 1  # any later block: all are as long

        def lasts(blocks, before=before):
            return timing.seconds(before + blocks) - timing.seconds(before)

        off = abs(lasts(length) - shot.seconds)
        assert off <= abs(lasts(length + 1) - shot.seconds) + 1e-9
        if length > 1:
            assert off <= abs(lasts(length - 1) - shot.seconds) + 1e-9


@given(several(SHOTS), TIMINGS, st.integers(1, 40))
def test_a_total_in_blocks_is_met(shots, timing, total):
    plan = planned(shots, timing, blocks=total)
    check_schedule(plan)
    assert plan.blocks == total
    assert plan.prompts + plan.left_out == tuple(shot.prompt for shot in shots)


@given(several(SHOTS), TIMINGS, st.floats(0.05, 60))
def test_a_total_in_seconds_is_covered_by_the_fewest_blocks(shots, timing, seconds):
    plan = planned(shots, timing, seconds=seconds)
    check_schedule(plan)
    assert plan.frames == max(1, int(seconds * timing.fps + 0.5))
    assert timing.frames(plan.blocks) >= plan.frames
    assert plan.blocks == 1 or timing.frames(plan.blocks - 1) < plan.frames


@given(st.integers(1, 9), st.integers(1, 40))
def test_open_shots_share_fairly_and_the_first_take_the_remainder(shots, total):
    story = Storyboard.of([f"shot {n}" for n in range(shots)])
    if shots > total:
        with pytest.raises(ValueError, match=f"{shots} shots do not fit.*{shots - total} of them"):
            story.plan(TIMING, blocks=total)
        return
    lengths = story.plan(TIMING, blocks=total).lengths
    assert len(lengths) == shots
    assert max(lengths) - min(lengths) <= 1
    assert list(lengths) == sorted(lengths, reverse=True)


@given(several(SHOTS), st.integers(1, 20), st.integers(0, 5))
def test_past_the_end_the_last_shot_goes_on(shots, total, beyond):
    plan = planned(shots, TIMING, blocks=total)
    after = plan.block(total + beyond)
    assert (after.text, after.cut) == (plan.prompts[-1], False)
    assert after.shot == len(plan.prompts) - 1


@given(st.integers(1, 1000), TIMINGS)
def test_blocks_and_frames_agree(blocks, timing):
    frames = timing.frames(blocks)
    assert timing.blocks_covering(frames) == blocks
    assert timing.blocks_covering(frames + 1) == blocks + 1
    assert timing.seconds(blocks) == frames / timing.fps


def test_the_first_block_is_shorter():
    assert [TIMING.frames(blocks) for blocks in range(4)] == [0, 29, 61, 93]
    assert [TIMING.blocks_nearest(s, opening=True) for s in (0.1, 3.7, 3.8)] == [1, 1, 2]
    assert [TIMING.blocks_nearest(s, opening=False) for s in (0.1, 3.9, 4.0)] == [1, 1, 2]


def test_the_published_examples():
    """12 blocks and captions a, b, 2, 10: an even split, four blocks a shot, durations 2 and 6."""
    captions = ("a", "b", "2", "10")
    assert Storyboard.of(captions).plan(TIMING, blocks=12).lengths == (3, 3, 3, 3)
    four = [Shot(prompt=caption, blocks=4) for caption in captions]
    assert Storyboard.of(four).plan(TIMING, blocks=12).prompts == ("a", "b", "2")
    two = [Shot(prompt="a", blocks=2), Shot(prompt="b", blocks=6)]
    plan = Storyboard.of(two).plan(TIMING, blocks=12)
    assert plan.lengths == (2, 10)
    assert [plan.block(i).text for i in range(4)] == ["a", "a", SCENE_CUT_PREFIX + "b", "b"]


def test_two_shots_of_a_storyboard():
    value = {"shots": [{"prompt": "a", "seconds": 5}, {"prompt": "b", "seconds": 5}]}
    plan = Storyboard.of(value).plan(TIMING)
    assert plan.lengths == (2, 2)
    assert plan.starts == (0, 2)
    assert plan.anchors == (0, 0, 0, 2)
    assert plan.frames == 125
    assert [plan.block(i).offset for i in range(4)] == [0, 0, 8, 8]
    assert plan.describe() == [
        {"prompt": "a", "blocks": 2, "start": 0.0, "seconds": 61 / 12},
        {"prompt": "b", "blocks": 2, "start": 61 / 12, "seconds": 64 / 12},
    ]


@given(several(SHOTS), st.floats(0.05, 30))
def test_the_description_adds_up_to_the_video(shots, seconds):
    plan = planned(shots, TIMING, seconds=seconds)
    described = plan.describe()
    assert sum(shot["seconds"] for shot in described) == pytest.approx(plan.frames / 12)
    assert [shot["blocks"] for shot in described] == list(plan.lengths)


def test_an_endless_plan_ends_with_a_shot_that_goes_on():
    plan = Storyboard.of([{"prompt": "a", "blocks": 2}, "b"]).plan(TIMING, seconds=math.inf)
    assert plan.endless and plan.lengths == (2, 1)
    assert plan.block(10**9) == BlockPrompt(text="b", shot=1, cut=False, offset=8.0)
    assert plan.describe() == [
        {"prompt": "a", "blocks": 2, "start": 0.0, "seconds": 61 / 12},
        {"prompt": "b", "blocks": None, "start": 61 / 12, "seconds": None},
    ]
    with pytest.raises(ValueError, match="every shot needs a length"):
        Storyboard.of(["a", "b"]).plan(TIMING, seconds=math.inf)


def test_a_prompt_that_has_the_prefix_is_not_given_it_twice():
    board = Storyboard.of(["a", SCENE_CUT_PREFIX + "b"])
    assert board.plan(TIMING, blocks=2).block(1).text == SCENE_CUT_PREFIX + "b"


def test_prefix_and_offset_can_be_others():
    plan = Storyboard.of(["a", "b"]).plan(TIMING, blocks=2, shot_offset=0.5, prefix="Cut to ")
    assert (plan.block(1).text, plan.block(1).offset) == ("Cut to b", 0.5)


@pytest.mark.parametrize(
    "value",
    ["a", Shot(prompt="a"), ["a"], [{"prompt": "a"}], {"shots": ["a"]}, Storyboard.of("a")],
)
def test_every_way_to_write_one_shot(value):
    assert Storyboard.of(value) == Storyboard(shots=(Shot(prompt="a"),))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "at least one word, got ''.*Write for example"),
        (" \n", "at least one word"),
        ([{"prompt": 3}], "a prompt is a text, got 3"),
        ([3], "a shot is a prompt or an object with the key 'prompt', got 3"),
        ([{"seconds": 3}], r"needs the key 'prompt', got \['seconds'\]"),
        ([{"prompt": "a", "secs": 3}], "has no key 'secs'; did you mean 'seconds'.*Its keys"),
        ([{"prompt": "a", "seconds": 0}], "above 0, got 0.*Use for example"),
        ([{"prompt": "a", "seconds": -1.5}], "above 0, got -1.5"),
        ([{"prompt": "a", "seconds": float("nan")}], "a finite number, got nan"),
        ([{"prompt": "a", "seconds": float("inf")}], "a finite number, got inf"),
        ([{"prompt": "a", "seconds": "3"}], "a finite number, got '3'"),
        ([{"prompt": "a", "seconds": True}], "a finite number, got True"),
        ([{"prompt": "a", "blocks": 0}], "blocks is at least 1, got 0.*Use 1 or more"),
        ([{"prompt": "a", "blocks": 1.5}], "blocks is a whole number, got 1.5"),
        ([{"prompt": "a", "blocks": 1, "seconds": 2}], "one length, got seconds=2 and blocks=1"),
        ({"shot": []}, "has no key 'shot'; did you mean 'shots'"),
        ({"shots": {"prompt": "a"}}, "shots are a list, got"),
        ("\u200b", "at least one word, got '.u200b'"),
        ("\ufeff\u2060 \u200d\u3164", "at least one word"),
        ("a\x00b", "control character U[+]0000"),
        ("a \x1b[31mred circle", "control character U[+]001B in 'a .x1b"),
        ("\ud800", "control character U[+]D800"),
        (
            [{"prompt": "a", "blocks": 10**5000}],
            "blocks is at most .*, got a whole number of 16610 bits",
        ),
        ({}, "at least one shot, got none.*Add a prompt"),
        ([], "at least one shot"),
    ],
)
def test_what_is_no_storyboard_is_refused_in_one_sentence(value, message):
    with pytest.raises(ValueError, match=message):
        Storyboard.of(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "every shot needs a length.*1 of 2 without.*Give each shot seconds"),
        ({"seconds": 0}, "above 0, got 0"),
        ({"blocks": 0}, "blocks is at least 1, got 0"),
        ({"seconds": 1e18}, "seconds is at most .*positions in time are float32"),
        ({"seconds": 10**400}, "seconds is a finite number, got a whole number of"),
        ({"blocks": 10**15}, "blocks is at most 2.*, got 1000000000000000: positions"),
        ({"blocks": 10**5000}, "blocks is at most .*, got a whole number of 16610 bits"),
        ({"seconds": 3, "blocks": 3}, "one length, got seconds=3 and blocks=3"),
    ],
)
def test_a_length_that_cannot_be_is_refused(options, message):
    board = Storyboard.of(["a", {"prompt": "b", "seconds": 2}])
    with pytest.raises(ValueError, match=message):
        board.plan(TIMING, **options)


def test_planning_needs_no_tensors():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('longlive_models')\n"  # without its public list, the pipeline
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['longlive_models'] = package\n"
        "import longlive_models.prompts.storyboard, longlive_models.prompts.files\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    folder = Path(storyboard.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "seconds, fps, frames", [(1.005, 100, 101), (0.29, 50, 15), (4.35, 10, 44), (1.15, 30, 35)]
)
def test_halves_of_a_frame_round_up_whatever_their_floats_are(seconds, fps, frames):
    """1.005 * 100 is 100.49999999999999 as floats."""
    assert BlockTiming(fps=fps).frames_in(seconds) == frames


def refusal(story, seconds=None):
    with pytest.raises(ValueError) as caught:
        plan_video(story, TIMING, seconds, 8.0)
    return str(caught.value)


@pytest.mark.parametrize(
    ("story", "message"),
    [
        (["shot"] * 1003, r"1003 shots do not fit into 5 s: .* so 1001 of them .* seconds"),
        ([{"prompt": "a", "blocks": 9}, "b"], "2 shots do not fit into 5 s.*one-video-a-line"),
    ],
)
def test_shots_that_would_never_be_shown_are_refused(story, message):
    refused = refusal(story)
    assert re.search(message, refused)
    needed = int(re.search("Give the video ([0-9]+) seconds", refused)[1])
    assert len(plan_video(story, TIMING, needed, 8.0).prompts) == len(story)


def test_shots_with_lengths_that_begin_past_the_end_are_named():
    story = [{"prompt": name, "blocks": 4} for name in "abcd"]
    plan = Storyboard.of(story).plan(TIMING, blocks=6)
    assert (plan.prompts, plan.lengths, plan.left_out) == (("a", "b"), (4, 2), ("c", "d"))


def test_a_shot_is_no_longer_than_a_video_can_be():
    refused = refusal([{"prompt": "a", "seconds": 1e300}, "b"], seconds=5)
    assert re.search("seconds is at most .* got 1e.300: positions in time", refused)


def test_a_list_of_thousands_of_shots_is_planned_at_once():
    began = time.process_time()
    plan = Storyboard.of(["a"] * 20_000).plan(TIMING, blocks=40_000)
    assert (len(plan.lengths), plan.blocks) == (20_000, 40_000)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("seconds", [np.float32(5), np.float64(5), np.int64(5), torch.tensor(5.0)])
def test_numbers_of_numpy_and_torch_are_lengths(seconds):
    assert BlockTiming(fps=12).frames_in(float(seconds)) == 60
    assert Shot.of({"prompt": "a", "seconds": seconds}) == Shot(prompt="a", seconds=5)


def test_a_rate_may_be_slower_than_a_frame_a_second():
    assert BlockTiming(fps=0.5).frames_in(60) == 30
    for rate in (0, -1.0):
        with pytest.raises(ValueError, match="fps is above 0"):
            BlockTiming(fps=rate)


MADE = """
import math, sys
from longlive_models.prompts.storyboard import BlockTiming, Shot, ShotPlan, Storyboard, plan_video
from longlive_models.prompts.steering import LiveSchedule, SteeringEvent

timing = BlockTiming(fps=8)
plan = Storyboard.of("a").plan(timing, seconds=5)
given = dict(prompts=("a",), lengths=(1,), timing=timing, frames=1)
for make in (
    lambda: Storyboard(shots=5),
    lambda: Storyboard(shots="ab"),
    lambda: Storyboard(shots=("a",)),
    lambda: Storyboard(shots=None),
    lambda: Shot(prompt=None),
    lambda: Shot(prompt=b"a"),
    lambda: Shot(prompt="a", seconds="5"),
    lambda: Shot(prompt="a", seconds=math.nan),
    lambda: Shot(prompt="a", seconds=[5]),
    lambda: Shot(prompt="a", blocks=2.0),
    lambda: BlockTiming(fps=0),
    lambda: BlockTiming(fps=math.nan),
    lambda: BlockTiming(fps="24"),
    lambda: BlockTiming(fps=24, frames_per_block=0),
    lambda: BlockTiming(fps=24, temporal_factor=4.0),
    lambda: ShotPlan(**{**given, "lengths": (0,)}),
    lambda: ShotPlan(**{**given, "lengths": ()}),
    lambda: ShotPlan(**{**given, "prompts": ()}),
    lambda: ShotPlan(**{**given, "prompts": ("",)}),
    lambda: ShotPlan(**{**given, "frames": 99}),
    lambda: ShotPlan(**{**given, "frames": 0}),
    lambda: ShotPlan(**given, shot_offset=math.inf),
    lambda: SteeringEvent(block=1.0, text="a"),
    lambda: SteeringEvent(block=10**5000, text="a"),
    lambda: SteeringEvent(block=1, text=3),
    lambda: SteeringEvent(block=1, text="a", memory=["keep"]),
    lambda: SteeringEvent(block=1, text="a", memory="cut", forget=1),
    lambda: LiveSchedule(plan, 5),
    lambda: LiveSchedule(plan, "events"),
    lambda: LiveSchedule(plan, [None]),
    lambda: LiveSchedule(plan).add("b", at="later"),
    lambda: LiveSchedule(plan).add("b", at=math.nan),
    lambda: LiveSchedule(plan).add("b", at=[1]),
    lambda: timing.frames_in(10**400),
    lambda: plan_video("a", timing, "5", 8.0),
    lambda: plan_video("a", timing, [5], 8.0),
    lambda: plan_video(5, timing, 5, 8.0),
):
    try:
        make()
    except ValueError as error:
        print(error)
    else:
        sys.exit("accepted")
"""


def test_types_are_held_to_where_nobody_checks_annotations():
    """In a process of its own: here, tests check every annotation first."""
    done = subprocess.run([sys.executable, "-c", MADE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(len(line) < 400 for line in done.stdout.splitlines())
