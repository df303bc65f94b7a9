"""The command itself: help, version, the doctor, and the bar that is shown meanwhile."""

import json

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import longlive_core
from longlive_cli.main import app


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
    video |= {"sampler", "negative_prompt", "fps", "crf", "one_video_a_line"}
    again = {"snapshot", "snapshot_every", "resume", "only_new", "fork", "replay"}
    machine = {"model", "device", "weights", "kv_cache", "nproc", "nodes", "output", "overwrite"}
    known = {
        "generate": video | again | machine | changing | {"count"},
        "train": {"recipe", "resume", "export"} | changing,
        "evaluate": {"videos", "recipe", "fps", "output", "overwrite"} | changing,
        "doctor": {"head_dim", "training", "as_json"},
    }
    for name, options in known.items():
        found = {parameter.name for parameter in commands[name].params}
        assert found - {"help"} == options, f"{name}: a recipe holds the rest, for --set"
