"""`longlive generate` on prompts of other people: what is not shown is said, and names fit."""

import json
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_cli.messages import warnings_are_lines
from tests.cli.tiny_model import write_tiny_model

CAT = "a photo of a cat in the rain"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def longlive(*arguments: str):
    return CliRunner().invoke(app, ["generate", *arguments])


def said(done) -> list[str]:
    """The lines that are no progress."""
    return [line for line in done.stderr.splitlines() if line.startswith("longlive:")]


def test_unknown_words_are_said_once_and_recorded(model):
    done = longlive(CAT, "-o", "a.gif", "--model", model, "--seconds", "0.5")
    assert done.exit_code == 0
    unknown, left_out = said(done)
    assert unknown == (
        "longlive: the model does not know 'photo', 'of', 'cat', 'in', 'the', 'rain': what they "
        "name will not be in the video. It knows a, circle, red."
    )
    assert "reads the first 7 words of a prompt, so these ends are left out: 'rain'" in left_out
    assert json.loads(Path("a.json").read_text())["not_shown"] == {
        "unknown_words": ["photo", "of", "cat", "in", "the", "rain"],
        "words_left_out": ["rain"],
        "shots_left_out": [],
        "unknown_negative_words": [],
    }


def test_a_dry_run_says_it_before_anything_is_made(model):
    done = longlive("a redd circle", "--model", model, "--dry-run", "--json")
    assert "does not know 'redd' (did you mean 'red'?)" in said(done)[0]
    assert json.loads(done.stdout)["videos"][0]["not_shown"]["unknown_words"] == ["redd"]
    assert said(longlive("a red circle", "--model", model, "--dry-run")) == []


def test_unknown_words_of_a_negative_prompt_are_told_too(model):
    away = ("--guidance", "2", "--negative-prompt", "a redd cat", "-o", "a.gif")
    done = longlive("a red circle", "--model", model, "--seconds", "1", *away)
    assert said(done) == [
        "longlive: the model does not know 'redd' (did you mean 'red'?), 'cat' of the negative "
        "prompt: the video will not move away from what they name. It knows a, circle, red."
    ]
    lacking = json.loads(Path("a.json").read_text())["not_shown"]
    assert lacking["unknown_negative_words"] == ["redd", "cat"]
    assert lacking["unknown_words"] == []


def test_a_fork_says_what_its_turn_lacks(model):
    options = ("--model", model, "--seconds", "9")
    longlive("a red circle", "-o", "a.gif", *options, "--snapshot", "s", "--snapshot-every", "2")
    done = longlive("--resume", "s", "--fork", "a cat", "-o", "forks")
    assert [line for line in said(done) if "does not know 'cat'" in line] != []


def test_a_list_of_a_thousand_lines_is_no_video_of_two_shots(model):
    Path("list.txt").write_text("a red circle\n" * 1003)
    done = longlive("--prompts", "list.txt", "--model", model)
    assert done.exit_code == 2
    assert "1003 shots do not fit into 5 s: " in done.stderr
    assert "pass --one-video-a-line" in done.stderr
    done = longlive(
        "--prompts", "list.txt", "--one-video-a-line", "--model", model, "--dry-run", "--json"
    )
    videos = json.loads(done.stdout)["videos"]
    assert [len(video["shots"]) for video in videos] == [1] * 1003
    assert len({video["path"] for video in videos}) == 1003


def test_shots_that_begin_past_the_end_are_said_and_recorded(model):
    shots = [{"prompt": "a red circle", "seconds": 1}, {"prompt": "a circle", "seconds": 1}]
    Path("s.json").write_text(json.dumps({"shots": shots}))
    done = longlive("--storyboard", "s.json", "-o", "a.gif", "--model", model, "--seconds", "1")
    assert "1 shot begins after the video's end, or without a duration" in done.stderr
    record = json.loads(Path("a.json").read_text())
    assert record["not_shown"]["shots_left_out"] == ["a circle"]
    assert [shot["prompt"] for shot in record["replay"]["shots"]] == ["a red circle"]
    again = longlive("--replay", "a.json", "-o", "b.gif")
    assert again.exit_code == 0
    assert said(again) == []
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes()


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ("n" * 251, "takes 261 bytes"),
        ("红" * 90, "takes 280 bytes, and '.' takes 255"),
        ("a/b", "leave out slashes"),
        ("..", "it names a folder"),
        ("a\0b", "NUL"),
        ("nul", "Windows keeps it"),
        ("FIRST", "two prompts of list.jsonl have the names 'first' and 'FIRST'"),
        (7, "an id is a text, got 7"),
    ],
    ids=range(8),
)
def test_ids_that_cannot_name_files_are_refused_before_anything_is_made(identity, message, model):
    rows = [{"prompt": "a red circle", "id": "first"}, {"prompt": "a circle", "id": identity}]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = longlive("--prompts", "list.jsonl", "-o", "out", "--model", model)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr
    assert [path.name for path in Path().iterdir()] == ["list.jsonl"]


def test_the_longest_name_that_can_be_has_its_record(model):
    name = "n" * (255 - len(".json.part"))
    row = {"prompt": "a red circle", "id": name}
    Path("list.jsonl").write_text(json.dumps(row))
    longlive("--prompts", "list.jsonl", "-o", "out", "--model", model, "--seconds", "0.1")
    assert sorted(path.name for path in Path("out").iterdir()) == [f"{name}.json", f"{name}.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a red circle", "--one-video-a-line"), "how the lines of --prompts FILE are read"),
        (("a red circle", "-o", f"{'n' * 250}.mp4"), "shorter by"),
        (("a red circle", "--snapshot", "n" * 250), "shorter by"),
        (("a red circle", "--seconds", "1e18"), "positions in time are float32"),
        (("a red circle", "--seconds", "9" * 400), "--seconds inf is a video without an end"),
        (("a red circle", "--set", "seconds=1e999"), "seconds=inf is a video without an end"),
        (("\u200b",), "at least one word, got '\\u200b'"),
        (("a\x1b[2J",), "control character U+001B"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message, model):
    done = longlive(*arguments, "--model", model)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr
    assert list(Path().iterdir()) == []


def test_warnings_of_python_are_lines_each_once():
    heard: list[str] = []
    with warnings_are_lines(heard.append):
        for text in ("one\n  two", "one two", "x\x1b[2J"):
            warnings.warn(text, UserWarning, stacklevel=1)
    assert heard == ["one two", "x\\x1b[2J"]


def test_what_was_told_is_not_told_again_within():
    outside: list[str] = []
    inside: list[str] = []
    with warnings_are_lines(outside.append):
        warnings.warn("one", UserWarning, stacklevel=1)
        with warnings_are_lines(inside.append):
            for text in ("one", "two"):
                warnings.warn(text, UserWarning, stacklevel=1)
        warnings.warn("three", UserWarning, stacklevel=1)
    assert (outside, inside) == (["one", "three"], ["two"])
