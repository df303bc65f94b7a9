"""`longlive live` with piped commands: what was typed is shown, and makes the video again."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_models.video.files import read_video
from longlive_recipes.generation.commands import Command, parse
from tests.models.tiny_pipeline import write_tiny_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def live(*arguments: str, lines: str = ""):
    return CliRunner().invoke(app, ["live", *arguments], input=lines)


def test_piped_commands_steer_fork_and_write_a_record_that_replays(model):
    lines = (
        "@1s /cut a blue square\n@1s /snapshot v.snapshot\n@1s /fork w.mp4 a circle\n@2s a red\n"
    )
    done = live("a red circle", "--model", model, "-o", "v.mp4", "--seconds", "4", lines=lines)
    assert done.exit_code == 0, done.output
    assert "from block 1 on (0.6 s), cut: a blue square" in done.stderr
    assert "[0 sink][1 anchor]" in done.stderr
    assert len(read_video("v.mp4")[0]) == len(read_video("w.mp4")[0]) == 32
    events = json.loads(Path("v.json").read_text())["replay"]["events"]
    assert [(event["block"], event["text"]) for event in events] == [
        (1, "a blue square"),
        (2, "a red"),
    ]
    for name in ("v", "w"):
        again = ["generate", "--replay", f"{name}.json", "-o", f"{name}2.mp4"]
        assert CliRunner().invoke(app, again).exit_code == 0
        assert Path(f"{name}2.mp4").read_bytes() == Path(f"{name}.mp4").read_bytes()
    before = Path("v.mp4").read_bytes()
    assert CliRunner().invoke(app, ["generate", "--resume", "v.snapshot"]).exit_code == 0
    assert Path("v.mp4").read_bytes() == before


def test_a_video_without_an_end_stops_with_the_input_or_when_told(model):
    done = live("a red circle", "--model", model, lines="@2s /quit\n")
    assert done.exit_code == 0, done.output
    assert len(read_video("live.mp4")[0]) == 13
    done = live("a red circle", "--model", model, "-o", "b.mp4", lines="@2s a blue square\n")
    assert len(read_video("b.mp4")[0]) == 21  # to the end of the block that shows it


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "a blue square\n/qiut\n",
            "line 2 of the input: '/qiut' is no command; did you mean",
        ),
        ("@x y\n", "line 1 of the input: '@x y' is no command with a time"),
        ("\n\n/cut\n", "line 3 of the input: /cut needs TEXT behind it"),
    ],
)
def test_a_script_with_a_line_that_is_no_command_is_refused_before_a_model_is_loaded(
    lines, said, model, monkeypatch
):
    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("longlive_recipes.live.load_pipeline", load)
    done = live("a red circle", "--model", model, "-o", "v.mp4", "--seconds", "2", lines=lines)
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if said in line]
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("lines", "said", "frames"),
    [
        ("@9s late\n", "line 1 of the input: at=9.0 is past the end", 0),
        ("@1s /fork v.mp4\n", "line 1 of the input: v.mp4 is being written already", 5),
        (
            "b\n@1s /snapshot a.json\n",
            "line 2 of the input: the snapshot a.json has the suff",
            5,
        ),
        ("@9s /snapshot a\n", "line 1 of the input: /snapshot a at 9 s: not done, the video", 16),
    ],
)
def test_a_line_of_a_script_that_cannot_be_carried_out_ends_the_video(lines, said, frames, model):
    done = live("a red circle", "--model", model, "-o", "v.mp4", "--seconds", "2", lines=lines)
    assert done.exit_code == (1 if frames else 2), done.output
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"longlive: {said}"), last
    if frames:
        assert f"v.mp4 keeps the {frames} frames before that, with its record" in last
        assert len(read_video("v.mp4")[0]) == frames
    else:
        assert not Path("v.mp4").exists()


def test_a_line_that_a_person_mistypes_is_answered_and_the_video_goes_on(model, monkeypatch):
    monkeypatch.setattr("longlive_cli.commands.live._is_typed", lambda: True)
    lines = "/qiut\n@x y\n@9s late\n@1s /fork v.mp4\n@1s /snapshot a.json\n"
    done = live("a red circle", "--model", model, "-o", "v.mp4", "--seconds", "2", lines=lines)
    assert done.exit_code == 0, done.output
    for said in (
        "did you mean /quit?",
        "'@x y' is no command with a time",
        "at=9.0 is past the end",
        "v.mp4 is being written already",
        "has the suffix of a video or a record",
    ):
        assert said in done.stderr
    assert len(read_video("v.mp4")[0]) == 16


def test_a_process_without_standard_input_is_an_ended_pipe(model, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    plan = ["--model", model, "-o", "v.mp4", "--seconds", "1"]
    with pytest.raises(SystemExit) as ended:
        app(["live", "a red circle", *plan])
    assert not ended.value.code
    assert len(read_video("v.mp4")[0]) == 8


def test_bad_options_are_one_line_and_status_2(model):
    for arguments, message in (
        ((), "one of PROMPT and --storyboard FILE, got none of them"),
        (("a", "--resume", "x"), "PROMPT"),
    ):
        done = live(*arguments, "--model", model)
        assert done.exit_code == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_lines_become_commands():
    assert parse("  ") is None
    assert parse("a red circle") == Command(kind="keep", text="a red circle")
    assert parse("@4.5s /forget a") == Command(kind="forget", text="a", at=4.5)
    fork = Command(kind="fork", file=Path("b.mp4"), then=Command(kind="cut", text="a b"))
    assert parse("/fork b.mp4 /cut a b") == fork
    for line in ("/cut", "/fork", "/quit now", "@4s", "@1s @2s a", "/fork b.mp4 /quit"):
        with pytest.raises(ValueError):
            parse(line)
