"""The command itself: help, version, the doctor, and the bar that is shown meanwhile."""

import io
import json
from dataclasses import dataclass

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import longlive_core
from longlive_cli.main import app
from longlive_cli.progress import FrameBar, state


def longlive(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_version():
    assert longlive("--version").stdout == f"longlive {longlive_core.__version__}\n"


@pytest.mark.parametrize("command", ["generate", "train", "evaluate", "recipes", "doctor"])
def test_every_command_explains_itself(command):
    assert command in longlive("--help").stdout
    done = longlive(command, "--help")
    assert done.exit_code == 0
    assert f"Usage: longlive {command}" in done.stdout


def test_the_doctor_names_a_backend_for_every_operation_and_why_not_the_others():
    report = json.loads(longlive("doctor", "--json").stdout)
    assert report["versions"]["torch"] != "not installed"
    cpu = report["devices"][0]
    assert cpu["device"] == "cpu"
    for operation in cpu["operations"]:
        assert operation["reasons"][operation["backend"]] == "usable"
        assert operation["reasons"]["reference"] == "usable"
    found = {operation["operation"]: operation["backend"] for operation in cpu["operations"]}
    assert found["float8.matmul"] == "reference"
    assert (found["nvfp4.weight_matmul"], found["nvfp4.matmul"]) == ("decode", "emulated")
    assert any("CUDA device" in why for why in cpu["operations"][0]["reasons"].values())
    text = longlive("doctor").stdout
    assert "attention: sdpa" in text
    assert "it needs a CUDA device, not cpu" in text


def test_options_are_few_and_known():
    commands = get_command(app).commands
    changing = {"settings", "config", "as_json", "dry_run"}
    video = {"prompt", "prompts", "storyboard", "image", "seconds", "seed", "steps", "guidance"}
    again = {"snapshot", "snapshot_every", "resume", "only_new", "fork", "replay"}
    machine = {"model", "device", "weights", "kv_cache", "nproc", "nodes", "output", "overwrite"}
    known = {
        "generate": video | again | machine | changing,
        "train": {"recipe", "resume", "export"} | changing,
        "evaluate": {"videos", "recipe", "output", "overwrite"} | changing,
        "doctor": {"head_dim", "training", "as_json"},
    }
    for name, options in known.items():
        found = {parameter.name for parameter in commands[name].params}
        assert found - {"help"} == options, f"{name}: a recipe holds the rest, for --set"


@dataclass(frozen=True)
class Report:
    frames_done: int
    frames_total: int
    seconds: float
    frames_before: int = 0


def test_the_bar_says_frames_speed_and_time_left():
    assert state(Report(30, 120, 10.0)) == "30/120 frames, 3.0 frames/s, 0:30 left"
    assert state(Report(30, 3630, 10.0)) == "30/3630 frames, 3.0 frames/s, 20:00 left"
    assert state(Report(60, 60, 10.0)) == "60/60 frames, 6.0 frames/s"
    assert state(Report(61, 93, 14.0), Report(29, 93, 10.0)) == (
        "61/93 frames, 8.0 frames/s, 0:04 left"
    )
    assert state(Report(0, 60, 0.0)) == "0/60 frames, 0.0 frames/s"
    assert state(Report(90, 120, 10.0, frames_before=60)) == (
        "90/120 frames, 3.0 frames/s, 0:10 left"
    ), "what an earlier run made is not this one's speed"


def test_the_bar_has_a_line_a_video_and_is_silent_where_nobody_looks():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with FrameBar(["first", "second"], terminal) as bar:
        for _ in range(2):
            bar(Report(29, 60, 5.0))
            bar(Report(60, 60, 10.0))
    shown = terminal.file.getvalue()
    assert "loading the model" in shown
    assert "first" in shown
    assert "second" in shown
    quiet = Console(file=io.StringIO())
    with FrameBar(["first"], quiet) as bar:
        bar(Report(60, 60, 1.0))
    assert quiet.file.getvalue() == ""
