"""The command itself: help, version, the doctor, and the bar that is shown meanwhile."""

import json

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import longlive_core
from longlive_cli.main import app
from longlive_models.runtime_options import RUNTIME_OPTIONS


def longlive(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_version():
    assert longlive("--version").stdout == f"longlive {longlive_core.__version__}\n"


@pytest.mark.parametrize("command", ["generate", "train", "evaluate", "bench", "recipes", "doctor"])
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


def test_the_doctor_answers_for_the_options_of_a_run():
    asked = ("--device", "cpu", "--weights", "nvfp4", "--kv-cache", "int8")
    report = json.loads(longlive("doctor", *asked, "--json").stdout)
    assert [device["device"] for device in report["devices"]] == ["cpu"]
    found = [operation["operation"] for operation in report["devices"][0]["operations"]]
    assert "nvfp4.weight_matmul" in found
    assert not {"float8.matmul", "nvfp4.matmul"} & set(found)
    assert any("page" in operation for operation in found), found


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--weights", "fp5"), "weights='fp5' is no precision of this version"),
        (("--attention", "fa3"), "cannot use backend 'fa3' on cpu"),
        (("--lane", "stream"), "lane='stream' needs a CUDA device"),
        (("--weights", "nvfp4-w4a4", "--strict"), "emulat"),
        (("--weights", "nvfp4", "--linear", "magic"), "no backend 'magic'"),
    ],
)
@pytest.mark.parametrize("command", ["doctor", "evaluate", "generate a", "bench generation"])
def test_options_of_a_run_mean_the_same_everywhere(command, option, message):
    done = longlive(*command.split(), "--device", "cpu", *option)
    assert done.exit_code == 2, done.output
    assert message in done.output


def test_how_a_model_runs_is_refused_where_none_does():
    done = longlive("evaluate", "a.mp4", "--kv-cache", "int8")
    assert done.exit_code == 2
    assert "--kv-cache: that is how a model runs, and videos are judged" in done.output


def test_options_are_few_and_known():
    commands = get_command(app).commands
    changing = {"overrides", "config", "as_json", "dry_run"}
    video = {"prompt", "prompts", "storyboard", "image", "seconds", "seed", "steps", "guidance"}
    video |= {"sampler", "negative_prompt", "fps", "crf", "one_video_a_line"}
    again = {"snapshot", "snapshot_every", "resume", "only_new", "fork", "replay"}
    runtime = set(RUNTIME_OPTIONS)
    going_on = {"video", "cut", "video_prompt", "quiet", "verbose", "trace"}
    machine = {"model", "nproc", "nodes", "output", "overwrite"} | runtime
    known = {
        "generate": video
        | going_on
        | again
        | machine
        | changing
        | {"count", "max_memory", "download"},
        "train": {"recipe", "data", "resume", "export", "best", "plot", "logger", "output"}
        | changing,
        "evaluate": {"videos", "recipe", "suite", "fps", "output", "html", "overwrite"}
        | changing
        | runtime,
        "bench": {"names", "listed", "model", "seconds", "steps", "guidance", "repeats"}
        | {"preset", "invariance", "baseline", "ranks", "earlier"}
        | {"output", "html", "overwrite"}
        | changing
        | runtime,
        "doctor": {"head_dim", "training", "named", "as_json"} | runtime,
    }
    assert runtime < {parameter.name for parameter in commands["live"].params}
    for name, options in known.items():
        found = {parameter.name for parameter in commands[name].params}
        assert found - {"help"} == options, f"{name}: a recipe holds the rest, for --set"
