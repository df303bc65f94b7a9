"""Events as data: what they do to a plan, when they take effect, and what is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.prompts.steering import LiveSchedule, SteeringEvent
from longlive_models.prompts.storyboard import (
    SCENE_CUT_PREFIX,
    BlockTiming,
    PromptSchedule,
    Storyboard,
)

TIMING = BlockTiming(fps=8, frames_per_block=2)  # 5 frames, then 8 a block: 1 s
BLOCKS = 8
STORY = [{"prompt": "a", "blocks": 3}, {"prompt": "b", "blocks": 5}]
PLAN = Storyboard.of(STORY).plan(TIMING)

EVENTS = st.builds(
    lambda block, text, memory, forget: SteeringEvent(
        block=block,
        text=text,
        memory="keep" if memory == "cut" and block == 0 else memory,
        forget=forget and memory == "cut" and block > 0,
    ),
    st.integers(0, BLOCKS - 1),
    st.sampled_from("xyz"),
    st.sampled_from(["keep", "recache", "cut"]),
    st.booleans(),
)


def texts(schedule: LiveSchedule) -> list[str]:
    return [schedule.block(n).text.removeprefix(SCENE_CUT_PREFIX) for n in range(BLOCKS)]


def test_without_events_it_is_the_plan():
    schedule = LiveSchedule(PLAN)
    assert isinstance(schedule, PromptSchedule)
    assert [schedule.block(n) for n in range(BLOCKS)] == [PLAN.block(n) for n in range(BLOCKS)]
    assert schedule.events == ()


@given(st.lists(EVENTS, max_size=6))
def test_every_block_shows_the_newest_of_shots_and_events(events):
    """Against a walk over the blocks, with a shot's number that counts cuts."""
    schedule, last = LiveSchedule(PLAN, events), {event.block: event for event in events}
    text, shot = "a", 0
    for n in range(BLOCKS):
        event = last.get(n)
        cut = event.memory == "cut" if event else n == 3
        text = event.text if event else ("b" if n == 3 else text)
        shot += cut
        prompt = schedule.block(n)
        assert prompt.text == (SCENE_CUT_PREFIX if cut else "") + text
        assert (prompt.cut, prompt.shot, prompt.offset) == (cut, shot, 8.0 * shot)
        assert prompt.recache == bool(event and event.memory == "recache")
        assert prompt.forget == bool(event and event.forget)
    assert schedule.events == tuple(last[block] for block in sorted(last))


@given(st.lists(EVENTS, max_size=6))
def test_events_are_json_and_make_the_same_schedule(events):
    schedule = LiveSchedule(PLAN, events)
    written = json.loads(json.dumps([event.to_dict() for event in schedule.events]))
    again = LiveSchedule(PLAN, written)
    assert [again.block(n) for n in range(BLOCKS)] == [schedule.block(n) for n in range(BLOCKS)]


@given(st.lists(st.tuples(st.integers(0, BLOCKS - 1), st.sampled_from("xyz")), max_size=8))
def test_what_was_begun_never_changes(calls):
    schedule, seen = LiveSchedule(PLAN), []
    for n in range(BLOCKS):
        for text in [text for block, text in calls if block == n]:
            event = schedule.add(text)
            assert event.block == n
        seen.append(schedule.begin(n))
        assert schedule.begun == n + 1
    assert [schedule.block(n) for n in range(BLOCKS)] == seen


def test_the_next_block_is_one_that_has_not_begun():
    schedule = LiveSchedule(PLAN)
    assert schedule.add("x").block == 0
    schedule.begin(0)
    schedule.begin(1)
    assert schedule.add("y", memory="cut").block == 2
    assert texts(schedule) == ["x", "x", "y", "b", "b", "b", "b", "b"]
    assert schedule.block(2).cut and schedule.block(3).cut


@pytest.mark.parametrize(
    ("at", "block"), [(0, 0), (0.1, 1), (1.1, 1), (1.2, 2), (2.62, 3), (6.6, 7)]
)
def test_a_time_falls_on_the_nearest_edge(at, block):
    assert LiveSchedule(PLAN).add("x", at=at).block == block


def test_of_two_events_for_a_block_the_last_counts():
    schedule = LiveSchedule(PLAN, begun=1)
    schedule.add("x", at=4.0, memory="cut", forget=True)
    schedule.add("y", at=4.0)
    assert [event.text for event in schedule.events] == ["y"]
    assert not schedule.block(4).cut


def test_forks_are_steered_apart():
    schedule = LiveSchedule(PLAN, begun=2)
    schedule.add("x")
    fork = schedule.fork()
    fork.add("y")
    assert (texts(schedule)[2], texts(fork)[2]) == ("x", "y")
    assert fork.begun == 2


def test_an_endless_plan_has_every_block():
    plan = Storyboard.of(["a"]).plan(TIMING, seconds=math.inf)
    schedule = LiveSchedule(plan)
    assert schedule.has(10**12) and not LiveSchedule(PLAN).has(BLOCKS)
    assert schedule.add("x", at=1e6).block == round(1e6) and schedule.block(10**12).text == "x"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"text": ""}, "at least one word, got ''"),
        ({"memory": "forget"}, "memory='forget' is none of keep, recache, cut.*Use one of them"),
        ({"forget": True}, "only a cut can forget.*Use cut"),
        ({"at": "now"}, "at is a finite number, got 'now'.*Use 'next', or for example at=12.5"),
        ({"at": True}, "at is a finite number, got True"),
        ({"at": math.inf}, "at is a finite number, got inf"),
        ({"at": -1}, "at is at least 0, got -1"),
        ({"at": 1.0}, "at=1.0 is past: it falls on block 1, and 2 blocks.*from 1.62 s on"),
        ({"at": 0}, "at=0 is past: it falls on block 0"),
        ({"at": 7.7}, "at=7.7 is past the end: the video has 8 blocks.*make the video longer"),
    ],
)
def test_what_cannot_be_is_refused_at_the_call(how, message):
    schedule = LiveSchedule(PLAN, begun=2)
    with pytest.raises(ValueError, match=message):
        schedule.add(**{"text": "x", **how})
    assert schedule.events == ()


def test_a_video_that_is_made_takes_no_prompt():
    with pytest.raises(ValueError, match="at='next' is past the end: the video has 8 blocks"):
        LiveSchedule(PLAN, begun=BLOCKS).add("x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "an event is an object with the keys 'block' and 'text', got 'x'"),
        ({"text": "x"}, "with the keys 'block' and 'text'"),
        ({"block": 1, "text": "x", "memroy": "cut"}, "no key 'memroy'; did you mean 'memory'"),
        ({"block": -1, "text": "x"}, "block is at least 0, got -1.*counted from 0"),
        ({"block": 1.5, "text": "x"}, "block is a whole number, got 1.5"),
        ({"block": 0, "text": "x", "memory": "cut"}, "a cut at block 0 has nothing to cut from"),
        ({"block": 1, "text": 3}, "a prompt is a text, got 3"),
        ({"block": 1, "text": "x", "memory": None}, "memory=None is none of"),
        ({"block": 8, "text": "x"}, "an event at block 8 is past the end"),
        ({"block": 1, "text": "x", "memory": "cut", "forget": 1}, "forget=1"),
    ],
)
def test_a_record_that_holds_no_event_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        LiveSchedule(PLAN, [value])
