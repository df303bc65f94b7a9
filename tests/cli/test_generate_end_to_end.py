"""`longlive generate` with a real, tiny model: files, records, bad input, and Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_models.video.files import read_video
from tests.cli.tiny_model import FPS, SIZE, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def longlive(*arguments: str):
    return CliRunner().invoke(app, ["generate", *arguments])


def test_a_prompt_becomes_a_video_and_a_record(model):
    done = longlive(
        "a red circle", "-o", "out/circle.mp4", "--model", model, "--seconds", "2", "--json"
    )
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    frames, fps = read_video(Path(record["output"]))
    assert tuple(frames.shape) == (2 * FPS, *SIZE, 3)
    assert fps == record["fps"] == FPS
    assert record["frames"] == 2 * FPS
    assert 0 < record["seconds_to_first_frame"] <= record["wall_seconds"]
    assert record["peak_memory_bytes"] > 0
    assert record["backends"][0].startswith("attention: sdpa on cpu")
    sidecar = json.loads(Path("out/circle.json").read_text())
    assert sidecar["plan"]["config"]["model"] == model
    assert sidecar["video"]["shots"][0]["prompt"] == "a red circle"
    assert sidecar["video"]["name"] == "circle"
    assert [line.split(",")[0] for line in done.stderr.splitlines()] == ["circle: block 1/1"]


def test_the_same_seed_gives_the_same_frames_and_a_longer_video_starts_with_them(model):
    runs = {"a.gif": ("5", "1"), "b.gif": ("7", "1"), "c.gif": ("5", "2")}
    for name, (seconds, seed) in runs.items():
        options = ("-o", name, "--model", model, "--seconds", seconds, "--seed", seed)
        assert longlive("a red circle", *options).exit_code == 0
    short, longer, other = (read_video(Path(name))[0] for name in runs)
    assert len(short) == 5 * FPS
    # the palette of a block's colors depends on how much of it is kept
    whole_blocks = 29
    assert torch.equal(short[:whole_blocks], longer[:whole_blocks])
    assert not torch.equal(short, other)


def test_several_prompts_fill_a_folder(model):
    Path("two.jsonl").write_text('{"prompt": "a"}\n{"id": "red", "prompt": "red", "seed": 3}\n')
    done = longlive("--prompts", "two.jsonl", "-o", "all", "--model", model, "--seconds", "0.5")
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path("all").iterdir()} == {
        "000-seed0.mp4",
        "000-seed0.json",
        "red.mp4",
        "red.json",
    }


def test_png_frames_go_to_a_folder(model):
    assert longlive("a", "-o", "f.png", "--model", model, "--seconds", "0.5").exit_code == 0
    assert sorted(path.name for path in Path("f").iterdir()) == [f"{i:05d}.png" for i in range(4)]
    assert Path("f.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "a prompt needs at least one word"),
        (["a", "--seconds", "0"], "seconds is above 0, got 0.0"),
        (["a", "--seconds", "-1"], "seconds is above 0, got -1.0"),
        (["a", "--seconds", "nan"], "seconds is a finite number, got nan"),
        (["a", "--steps", "0"], "steps is at least 1, got 0"),
        (["a", "-o", "plain.txt/x.mp4"], "plain.txt"),
        (["a", "-o", "x.avi"], "one of .mp4, .gif, .png"),
        (["a", "-o", "there.mp4"], "there.mp4 exists"),
        (["a", "--model", "nothing"], "there is no model 'nothing'"),
        (["a", "--device", "abacus"], "device='abacus' is no device"),
        (["--prompts", "story.json"], "'promt'"),
        (["--prompts", "two.txt", "-o", "x.mp4", "--set", "weights=fp4"], "weights='fp4'"),
        (["--prompts", "two.jsonl", "-o", "x.mp4"], "2 videos cannot all go to x.mp4"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_writes_nothing(arguments, message, model):
    Path("plain.txt").write_text("not a folder\n")
    Path("there.mp4").touch()
    Path("story.json").write_text('{"shots": [{"promt": "a", "seconds": 1}]}')
    Path("two.txt").write_text("a\nb\n")
    Path("two.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    before = {path: path.read_bytes() for path in Path().iterdir()}
    if "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    done = longlive(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_an_existing_video_is_replaced_when_asked(model):
    for seconds in ("1", "0.5"):
        options = ("-o", "x.mp4", "--model", model, "--seconds", seconds, "--overwrite")
        assert longlive("a", *options).exit_code == 0
    assert len(read_video(Path("x.mp4"))[0]) == FPS // 2


def hear_interrupts() -> None:
    """A job in the background inherits that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_interrupt_leaves_a_playable_file_and_says_so(model):
    code = "from longlive_cli.main import app; app()"
    options = ["-o", "x.mp4", "--model", model, "--seconds", "3600", "--json"]
    command = [sys.executable, "-c", code, "generate", "a red circle", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    ) as process:
        deadline = time.monotonic() + 120
        while not (Path("x.mp4").exists() and Path("x.mp4").stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        record = json.loads(process.stdout.read())
    assert process.returncode == 130
    assert record["interrupted"] is True
    assert json.loads(Path("x.json").read_text())["result"]["interrupted"] is True
    assert len(read_video(Path("x.mp4"))[0]) >= record["frames"] >= 29
