"""What a model does not take of its prompts: in warnings, streams, videos and schedules."""

import warnings

import pytest

from longlive_models import LongLivePipeline
from longlive_models.prompts.report import (
    NotShown,
    PromptReader,
    PromptWarning,
    lines_about,
    not_shown,
    warn_of,
)
from longlive_models.prompts.steering import LiveSchedule
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX, BlockTiming, Storyboard
from longlive_models.text import WordTokenizer
from longlive_models.text.tokenizer import words
from tests.models.tiny_pipeline import TEXT, tiny_pipeline

WORDS = WordTokenizer(("a", "red", "circle", "the", "scene", "transitions"), 8)
CAT = "a photo of a cat in the rain"


def test_words_that_are_not_known_are_said_with_those_that_are():
    found = not_shown(WORDS, [(CAT, CAT), ("a redd circle", "a redd circle")])
    assert found == NotShown(
        unknown_words=("photo", "of", "cat", "in", "rain", "redd"), words_left_out=("rain",)
    )
    unknown, left_out = lines_about(found, WORDS)
    assert "know 'photo', 'of', 'cat', 'in', 'rain', 'redd' (did you mean 'red'?): " in unknown
    assert unknown.endswith("It knows a, circle, red, scene, the, transitions.")
    assert "reads the first 7 words of a prompt, so these ends are left out: 'rain'" in left_out


def test_a_prompt_that_is_all_taken_says_nothing():
    found = not_shown(WORDS, [("a red circle", "a red circle")])
    assert found == NotShown()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of(found, WORDS)


def test_a_warning_is_of_the_line_that_asked_for_the_video():
    found = NotShown(unknown_words=("cat",))

    unchecked = getattr(warn_of, "__wrapped__", warn_of)  # checks of shapes are frames of their own

    def generate():
        unchecked(found, WORDS)

    with pytest.warns(PromptWarning) as caught:
        generate()
    line = generate.__code__.co_firstlineno + 4
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, line)]


def test_lines_stay_short_whatever_was_asked_for():
    found = NotShown(
        unknown_words=tuple(f"{'x' * 500}{n}" for n in range(1000)),
        words_left_out=("y" * 5000,) * 1000,
        shots_left_out=("z" * 5000,) * 1000,
    )
    for line in lines_about(found, WORDS):
        assert len(line) < 1400
        assert "and 988 more" in line


def test_an_encoder_that_cannot_say_is_not_asked():
    assert not isinstance(object(), PromptReader)
    assert not_shown(object(), [(CAT, CAT)], ["b"]) == NotShown(shots_left_out=("b",))
    assert not_shown(None, [(CAT, CAT)]) == NotShown()


def test_a_cut_reads_its_prefix_first():
    plan = Storyboard.of(["a", "b"]).plan(BlockTiming(fps=8), blocks=4)
    events = [{"block": 1, "text": "c"}, {"block": 3, "text": "d", "memory": "cut"}]
    assert LiveSchedule(plan, events).prompts() == [
        ("a", "a"),
        ("b", SCENE_CUT_PREFIX + "b"),
        ("c", "c"),
        ("d", SCENE_CUT_PREFIX + "d"),
    ]


def test_a_video_knows_what_it_does_not_show():
    pipe = tiny_pipeline()
    with pytest.warns(PromptWarning, match="does not know 'cat', 'in', 'rain': .* It knows a, "):
        video = pipe("a red cat in the rain", seconds=0.1)
    assert video.unknown_words == ("cat", "in", "rain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipe("a red circle", seconds=0.1).unknown_words == ()


def test_steering_says_it_too_and_a_stream_keeps_it():
    pipe = tiny_pipeline()
    long = " ".join(["red"] * TEXT.text_len)
    with pipe.stream("a red circle", seconds=9) as stream:
        with pytest.warns(PromptWarning, match="does not know 'cat'"):
            stream.prompt("a cat")
        with pytest.warns(PromptWarning, match="reads the first 7 words .*: 'red red red red'"):
            stream.cut(long, at=4)
        assert stream.not_shown == NotShown(
            unknown_words=("cat",), words_left_out=("red red red red",)
        )
        next(stream)
        assert stream.fork().not_shown == stream.not_shown


def test_shots_past_the_end_are_said():
    story = [{"prompt": "a red circle", "blocks": 1}, {"prompt": "a blue square", "blocks": 3}]
    with pytest.warns(PromptWarning, match="1 shot begins after the video's end.*'a blue square'"):
        stream = tiny_pipeline().stream(story, seconds=0.5)
    assert stream.not_shown.shots_left_out == ("a blue square",)
    stream.close()


def test_the_pocket_knows_the_words_of_a_cut():
    pipe = LongLivePipeline.from_pretrained("pocket")
    assert isinstance(pipe.text, PromptReader)
    assert set(words(SCENE_CUT_PREFIX)) <= set(pipe.text.known_words)
    assert pipe.text.read(CAT).unknown == ("photo", "cat", "rain")
