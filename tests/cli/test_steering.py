"""Videos that are stopped, killed, gone on with, given other endings, and made again."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_core.testing import assert_bitwise_equal
from longlive_models.stream_snapshot import SnapshotSummary
from longlive_models.video.files import read_video, write_png
from tests.models.tiny_pipeline import FPS, write_tiny_folder

PROMPT = ("generate", "a red circle", "--seed", "3", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    """Six blocks that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "whole.mp4"
    assert longlive(*PROMPT, "--model", model, "--seconds", "5.5", "-o", str(path)).exit_code == 0
    assert len(read_video(path)[0]) == 44
    return path


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def longlive(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@contextmanager
def interrupts_at(index: int, times: int = 1) -> Iterator[list[int]]:
    """Ctrl-C, so many times, while block ``index`` is reported; gives the blocks reported."""
    seen: list[int] = []

    def press(bar, report) -> None:
        seen.append(report.index)
        if report.index == index:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longlive_cli.progress.FrameBar.__call__", press)
        yield seen


def write_and_stop(model: str, times: int = 1):
    """The first two of six blocks go to v.mp4."""
    where = ("--model", model, "-o", "v.mp4", "--snapshot", "v.snapshot")
    with interrupts_at(1, times):
        return longlive(*PROMPT, *where, "--seconds", "5.5")


@pytest.fixture
def stopped(model) -> Path:
    """The snapshot of a stopped video."""
    done = write_and_stop(model)
    assert done.exit_code == 130
    assert "interrupted; 13 frames" in done.stdout
    assert done.stdout.endswith("go on with: longlive generate --resume v.snapshot\n")
    return Path("v.snapshot").resolve()


def test_a_stopped_video_goes_on_in_place_and_ends_as_if_it_had_not_stopped(
    stopped, whole, monkeypatch, tmp_path
):
    assert len(read_video("v.mp4")[0]) == 13
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = longlive("generate", "--resume", str(stopped), "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["output"], record["frames"]) == (str(tmp_path / "v.mp4"), 44)
    assert record["generated_fps"] == 31 / record["wall_seconds"]
    assert (tmp_path / "v.mp4").read_bytes() == whole.read_bytes()
    sidecar = json.loads((tmp_path / "v.json").read_text())
    assert sidecar["result"]["interrupted"] is False
    assert sidecar["video"]["start"]["frames"] == 13


def test_a_second_interrupt_does_not_wait(model):
    done = write_and_stop(model, times=2)
    assert done.exit_code == 130
    assert "interrupted; 13 frames" in done.stdout
    assert "go on with" not in done.stdout
    assert not Path("v.snapshot").exists()


def test_with_an_output_the_past_is_copied_and_the_old_file_stays(stopped, whole):
    before = Path("v.mp4").read_bytes()
    assert longlive("generate", "--resume", "v.snapshot", "-o", "new/w.mp4").exit_code == 0
    assert Path("new/w.mp4").read_bytes() == whole.read_bytes()
    assert Path("v.mp4").read_bytes() == before


def test_what_comes_next_may_be_written_alone(stopped, model, whole):
    options = ("--only-new", "-o", "rest.png", "--json")
    done = longlive("generate", "--resume", "v.snapshot", *options)
    assert json.loads(done.stdout)["frames"] == 31
    longlive(*PROMPT, "--model", model, "--seconds", "5.5", "-o", "all.png")
    rest, every = (read_video(name, fps=FPS)[0] for name in ("rest", "all"))
    assert_bitwise_equal(rest, every[13:])


def test_two_endings_of_one_past(stopped, whole, model):
    done = longlive(
        "generate", "--resume", "v.snapshot", "--fork", "a blue square", "--fork", "/cut a circle"
    )
    assert done.exit_code == 0, done.output
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        str(Path(f"v-fork{number}.mp4").resolve()) for number in (1, 2)
    ]
    same, first, second = (read_video(path)[0] for path in (whole, "v-fork1.mp4", "v-fork2.mp4"))
    assert_bitwise_equal(first[:13], same[:13])
    assert_bitwise_equal(second[:13], same[:13])
    assert len(first) == len(second) == 44
    assert not torch.equal(first[13:], same[13:])
    assert not torch.equal(first[13:], second[13:])
    replay = json.loads(Path("v-fork2.json").read_text())["replay"]
    assert replay["events"] == [{"block": 2, "text": "a circle", "memory": "cut", "forget": False}]
    assert longlive("generate", "--replay", "v-fork2.json", "-o", "again.mp4").exit_code == 0
    assert Path("again.mp4").read_bytes() == Path("v-fork2.mp4").read_bytes()


def test_a_kill_costs_what_came_after_the_last_snapshot(model, whole):
    code = "from longlive_cli.main import app; app()"
    options = ["-o", "v.mp4", "--model", model, "--snapshot", "v.snapshot"]
    command = [sys.executable, "-c", code, *PROMPT, *options, "--snapshot-every", "2"]
    # as long as can be, so that the kill comes in the middle
    with subprocess.Popen([*command, "--seconds", "3600"]) as process:
        deadline = time.monotonic() + 120
        while not Path("v.snapshot").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not Path("v.json").exists()
    made = SnapshotSummary.read("v.snapshot").block
    assert made % 2 == 0
    # the same video, some blocks longer than the snapshot
    seconds = str((5 + 8 * (made + 2)) / FPS)
    assert longlive(*PROMPT, "--model", model, "--seconds", seconds, "-o", "w.mp4").exit_code == 0
    with interrupts_at(made + 2) as seen:
        done = longlive("generate", "--resume", "v.snapshot", "--snapshot", "v.snapshot")
    assert done.exit_code == 130, done.output
    assert seen == [made, made + 1, made + 2]
    assert Path("v.mp4").read_bytes() == Path("w.mp4").read_bytes()


@pytest.mark.parametrize("options", [(), ("--image", "start.png", "--guidance", "1")])
def test_a_record_makes_the_same_video_again(options, model):
    write_png("start.png", torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8))
    Path("story.txt").write_text("a red circle\na blue square\n")
    how = ("--storyboard", "story.txt", "--model", model, "--seconds", "3", "--seed", "5")
    assert longlive("generate", *how, *options, "-o", "v.mp4", "--steps", "3").exit_code == 0
    done = longlive("generate", "--replay", "v.json", "-o", "again.mp4")
    assert done.exit_code == 0, done.output
    assert Path("again.mp4").read_bytes() == Path("v.mp4").read_bytes()
    first, again = (json.loads(Path(f"{name}.json").read_text()) for name in ("v", "again"))
    assert first["replay"] == again["replay"]
    if options:
        assert longlive("generate", *how, "-o", "plain.mp4", "--steps", "3").exit_code == 0
        assert Path("plain.mp4").read_bytes() != Path("v.mp4").read_bytes()


def picture(name: str, value: int) -> None:
    write_png(name, torch.full((40, 60, 3), value, dtype=torch.uint8))


def test_a_replay_is_refused_where_the_picture_is_another_one(model):
    how = ("--model", model, "--image", "start.png", "--seconds", "1")
    picture("start.png", 200)
    assert longlive(*PROMPT, *how, "-o", "v.mp4").exit_code == 0
    record = json.loads(Path("v.json").read_text())
    digest = hashlib.sha256(Path("start.png").read_bytes()).hexdigest()
    assert record["replay"]["image_sha256"] == record["video"]["image_sha256"] == digest
    picture("start.png", 10)
    done = longlive("generate", "--replay", "v.json", "-o", "again.mp4")
    assert done.exit_code == 2
    assert "began with another picture than" in done.stderr
    assert f"its SHA-256 was {digest[:12]}" in done.stderr
    assert not Path("again.mp4").exists()
    picture("start.png", 200)
    assert longlive("generate", "--replay", "v.json", "-o", "again.mp4").exit_code == 0
    assert Path("again.mp4").read_bytes() == Path("v.mp4").read_bytes()
    picture("start.png", 10)  # a record of an earlier version says no hash
    del record["replay"]["image_sha256"]
    Path("v.json").write_text(json.dumps(record))
    assert longlive("generate", "--replay", "v.json", "-o", "other.mp4").exit_code == 0


def test_a_snapshot_hands_the_hash_of_the_picture_to_the_record_of_what_goes_on(model):
    picture("start.png", 200)
    digest = hashlib.sha256(Path("start.png").read_bytes()).hexdigest()
    where = ("--model", model, "-o", "v.mp4", "--snapshot", "v.snapshot", "--image", "start.png")
    with interrupts_at(1):
        assert longlive(*PROMPT, *where, "--seconds", "3").exit_code == 130
    assert SnapshotSummary.read("v.snapshot").notes["image_sha256"] == digest
    picture("start.png", 10)  # its latents are in the snapshot, so it is not needed again
    assert longlive("generate", "--resume", "v.snapshot").exit_code == 0
    assert json.loads(Path("v.json").read_text())["replay"]["image_sha256"] == digest
    done = longlive("generate", "--replay", "v.json", "-o", "again.mp4")
    assert done.exit_code == 2 and "another picture" in done.stderr


def test_a_stopped_video_is_made_again_as_far_as_it_went(stopped):
    assert longlive("generate", "--replay", "v.json", "-o", "again.mp4").exit_code == 0
    assert Path("again.mp4").read_bytes() == Path("v.mp4").read_bytes()


BAD = [
    (("--resume", "v.snapshot", "--kv-cache", "bf16"), "was made with kv_cache 'fp32', but here"),
    (("--resume", "v.snapshot", "--quality", "high"), "was made with quality 'lossless', but here"),
    (("--resume", "v.snapshot", "--model", "pocket"), "was made with model"),
    (("--resume", "v.snapshot", "-o", "w.gif"), "cannot begin with the frames of"),
    (("--resume", "v.snapshot", "-o", "there.mp4"), "there.mp4 exists: pass --overwrite"),
    (("--resume", "v.snapshot", "--snapshot", "there.mp4"), "has the suffix of a video"),
    (("--resume", "v.snapshot", "--snapshot", "there.snapshot"), "there.snapshot exists: pass"),
    (("--resume", "there.snapshot"), "there.snapshot cannot be read as safetensors"),
    (
        ("--resume", "v.snapshot", "--fork", "a", "--fork", "b", "--snapshot", "s"),
        "holds the state of one video",
    ),
    (("--replay", "v.json", "--weights", "bf16"), '(weights: "fp32" -> "bf16")'),
    (("--replay", "v.json", "--quality", "high"), '(quality: "lossless" -> "high")'),
    (("--replay", "v.json", "--model", "pocket"), "v.json is of another video than would be"),
    (("--replay", "v.json", "-o", "v.mp4"), "the record of v.mp4 would replace v.json"),
    (("a", "--image", "none.png"), "none.png', which is to be read as the image"),
    (("a", "--image", "there.snapshot"), "there.snapshot cannot be read as an image"),
]


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory) -> Path:
    """A folder with a video that was stopped after a block, its record and its snapshot."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert write_and_stop(model).exit_code == 130
    for name in ("there.mp4", "there.snapshot"):
        (folder / name).write_text("something else")
    return folder


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_status_2_and_changes_nothing(
    arguments, message, kept, model, monkeypatch
):
    monkeypatch.chdir(kept)
    before = {path: path.read_bytes() for path in kept.iterdir()}
    own = ("--model", model) if arguments[0] == "a" else ()
    done = longlive("generate", *arguments, *own)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in kept.iterdir()} == before


def test_a_past_that_is_gone_is_refused_with_the_way_out(stopped):
    Path("v.mp4").rename("moved.mp4")
    done = longlive("generate", "--resume", "v.snapshot")
    assert done.exit_code == 2
    assert "there is no video" in done.stderr
    assert (
        longlive("generate", "--resume", "v.snapshot", "--only-new", "-o", "n.mp4").exit_code == 0
    )
    assert len(read_video("n.mp4")[0]) == 31
