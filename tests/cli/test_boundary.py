"""However a command ends, it ends in a status and one sentence: no traceback, no raw byte."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unicodedata import category

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from longlive_cli.boundary import explained, tell
from longlive_cli.main import app
from longlive_cli.messages import MOST_OF_A_MESSAGE, in_one_line, plain
from longlive_core.backends import BackendUnavailable
from longlive_models.video.files import read_video
from longlive_recipes.generation.file_lock import FileLock
from tests.cli.tiny_model import write_tiny_model

LONGLIVE = [sys.executable, "-c", "from longlive_cli.main import app; app()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def longlive(*arguments: str, **how):
    return CliRunner().invoke(app, list(arguments), **how)


@given(st.text())
def test_nothing_that_is_printed_moves_a_cursor(text):
    shown = in_one_line(text)
    assert not {"Cc", "Cs", "Zl", "Zp"} & {category(letter) for letter in shown}
    assert len(shown) <= MOST_OF_A_MESSAGE
    assert not {"\x1b", "\0", "\r", "\x9b", "\u202e", "\udc80"} & set(plain(text))


def test_plain_text_stays_as_it_is_and_a_long_message_keeps_its_end():
    assert plain("a red circle\nein roter Kreis, 红色 \N{LARGE RED CIRCLE}\t1") == (
        "a red circle\nein roter Kreis, 红色 \N{LARGE RED CIRCLE}\t1"
    )
    assert plain("a\x1b[31mb\0\udcff\x9b") == "a\\x1b[31mb\\x00\\udcff\\x9b"
    line = in_one_line("there is no model '" + "x" * 5000 + "': name another.")
    assert len(line) < 250
    assert line.endswith("': name another.")


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ValueError("steps=0: use 1."), 2, "steps=0: use 1."),
        (BackendUnavailable("no backend"), 2, "no backend"),
        (OSError(errno.ENOSPC, "No space left on device", "a.mp4"), 2, "a.mp4: No space left on"),
        (OSError(errno.EACCES, "Permission denied", b"\xff.mp4"), 2, "Permission denied. Check"),
        (MemoryError(), 2, "there is not enough memory for this"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
        (TypeError("NoneType"), 1, "internal error: TypeError: NoneType."),
        (AssertionError(), 1, "internal error: AssertionError"),
        (KeyError("a"), 1, "run the same command with --debug"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, "nobody reads what is printed"),
    ],
)
def test_an_error_is_a_sentence_and_a_status(error, status, sentence, capsys):
    text, found = explained(error)
    assert found == status
    assert sentence in text
    assert tell(error, debug=False) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_was_written_before_a_failure_is_said_and_has_a_status_of_its_own(capsys):
    error = OSError(errno.ENOSPC, "No space left on device")
    error.add_note("a.mp4 keeps the 29 frames before that.")
    assert tell(error, debug=False) == 1
    assert capsys.readouterr().err.endswith("a.mp4 keeps the 29 frames before that.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "-o", ""], "names no file"),
        (["generate", "a", "--snapshot", ""], "names no file"),
        (["quantize", "pocket", "-o", ""], "names no file"),
        (["generate", "a", "-o", "\x1b[31mx.webm"], "\\x1b[31mx.webm cannot be written"),
        (["generate", "a", "--model", "x" * 5000], "File name too long"),
        (["generate", "a", "--model", "\0"], "\\x00"),
        (["generate", "a", "--guidance", "1e308"], "guidance is at most 1000"),
        (["generate", "a", "--seconds", "-inf"], "seconds is a finite number"),
        (["generate", "a", "--set", "steps=" + "9" * 5000], "steps takes a whole number or a list"),
        (["generate", "a", "--device", "cpu:7"], "asks for CPU number 7"),
        (["generate", "a", "-o", "x" * 300 + ".mp4"], "File name too long"),
        (["generate", "a", "-o", "a\0.mp4"], "holds no NUL"),
        (["generate", "a", "--nproc", "-1"], "--nproc"),
        (["doctor", "--head-dim", "-1"], "--head-dim"),
        (["generate", "\x1b[2J", "--sed\x1b", "1"], "--sed\\x1b"),
        (["quantize", "pocket", "-o", "x", "--rule", "\x07"], "no scale rule"),
    ],
)
def test_bad_words_are_one_readable_line_and_status_2(arguments, message):
    done = longlive(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    [line] = done.stderr.splitlines()
    assert line.isprintable()
    assert len(line) < MOST_OF_A_MESSAGE + 100
    assert list(Path().iterdir()) == []


def test_a_model_of_which_nothing_is_left_to_pack_is_refused(model):
    done = longlive("quantize", model, "-o", "x", "--keep", "*")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nothing of" in done.stderr
    assert not Path("x").exists()


def test_weights_that_are_broken_end_in_a_sentence_without_a_traceback(tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    file = folder / "transformer" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    done = longlive("generate", "a", "--model", str(folder), "-o", "x.mp4")
    assert done.exit_code == 2
    assert "safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("x.mp4").exists()


def test_a_full_disk_keeps_the_video_so_far_with_its_record(model, monkeypatch):
    from longlive_models.video.files import VideoWriter

    write, blocks = VideoWriter.write, []

    def fill_up(writer, frames):
        if blocks:
            raise OSError(errno.ENOSPC, "No space left on device", str(writer.path))
        blocks.append(frames)
        write(writer, frames)

    monkeypatch.setattr(VideoWriter, "write", fill_up)
    done = longlive("generate", "a", "--model", model, "-o", "x.mp4", "--seconds", "8")
    assert done.exit_code == 1
    line = done.stderr.splitlines()[-1]
    assert "x.mp4: No space left on device. Make room" in line
    assert line.endswith("x.mp4 keeps the 29 frames before that, with its record.")
    assert len(read_video("x.mp4")[0]) == 29
    assert '"failure": "OSError' in Path("x.json").read_text()


def test_prompts_that_a_console_has_no_letters_for_are_escaped():
    for encoding in ("cp1252", "ascii"):
        done = subprocess.run(
            [*LONGLIVE, "generate", "一只红色的猫", "--dry-run"],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if encoding == "cp1252":  # for ascii, which is taken for a mistake, UTF-8 is printed
            assert b"\\u4e00" in done.stdout


def test_output_that_nobody_takes_is_a_sentence_and_a_status():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here to write to")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*LONGLIVE, "recipes", "list"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*LONGLIVE, "recipes", "list"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 141
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_signals_leave_a_video_a_record_and_a_snapshot(number, status, model):
    command = ["generate", "a", "--model", model, "-o", "x.mp4", "--seconds", "600"]
    process = subprocess.Popen(
        [*LONGLIVE, *command, "--snapshot", "x.snapshot"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not Path("x.mp4").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == status, stderr
    word = "interrupted" if status == 130 else f"stopped by {number.name}"
    assert f"x.mp4: {word}; " in stdout
    assert "go on with: longlive generate --resume x.snapshot" in stdout
    assert "Traceback" not in stderr
    assert f'"signal": {int(number)}' in Path("x.json").read_text()
    assert Path("x.snapshot").exists()
    assert len(read_video("x.mp4")[0]) > 0


def test_a_file_that_another_process_writes_is_refused_and_stays(model):
    Path("x.mp4").write_text("frames of the other one")
    holder = FileLock(Path("x.mp4"))
    try:
        done = longlive("generate", "a", "--model", model, "-o", "x.mp4", "--overwrite")
    finally:
        holder.release()
    assert done.exit_code == 2
    assert "x.mp4 is being written by another process" in done.stderr
    assert Path("x.mp4").read_text() == "frames of the other one"
    done = longlive("generate", "a", "--model", model, "-o", "x.mp4", "--overwrite")
    assert done.exit_code == 0, done.stderr


def test_live_prompts_reach_no_terminal_raw_and_what_was_not_done_is_said(model):
    arguments = ("live", "a", "--model", model, "-o", "v.mp4", "--seconds", "8")
    done = longlive(*arguments, input="a \x1b[31mred\0 circle\n")
    assert done.exit_code == 2
    assert "\\x1b[31mred\\x00 circle" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    done = longlive(*arguments, input="@900s /fork late.mp4\n@900s /snapshot late.snapshot\n")
    assert done.exit_code == 1
    assert "/fork late.mp4 at 900 s: not done, the video ended first" in done.stderr
    assert "/snapshot late.snapshot at 900 s: not done" in done.stderr


def test_debug_goes_anywhere_before_the_words_that_are_no_options():
    for arguments in (["--debug", "generate", "a", "-o", "x.webm"], ["generate", "--debug", "a"]):
        done = longlive(*arguments, "-o", "x.webm")
        assert done.exit_code == 2
        assert "Traceback" in done.stderr
