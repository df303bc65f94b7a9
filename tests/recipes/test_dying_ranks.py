"""A rank that dies ends the job within a stated time, with its own error and a status not 0."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longlive_models.video.files import read_video
from longlive_recipes.training import sharded_strategy
from tests.recipes.tiny_runs import write_tiny_vae

JOB = Path(__file__).with_name("failing_job.py")
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
LIMIT = 180.0  # seconds for all of a job; most of them go into starting


def failed(folder: Path, launcher: list[str], how: str, who: int, meanwhile: str) -> str:
    """What a job prints that must fail."""
    write_tiny_vae(folder / "vae")
    arguments = [str(folder), how, str(who), meanwhile]
    done = subprocess.run(
        [sys.executable, *launcher, str(JOB), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,  # a rank that is left behind keeps the pipe open, and this waiting
    )
    assert done.returncode != 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["lightning", "torchrun"])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("meanwhile", ["train", "sleep"])
def test_the_error_of_a_rank_ends_the_job(tmp_path, launcher, who, meanwhile):
    printed = failed(tmp_path, launcher, "raise", who, meanwhile)
    assert f"[rank{who}]: ArithmeticError: this rank went wrong" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "said"),
    [([], "local rank 1 was killed by signal 9"), (TORCHRUN, "Signal 9 (SIGKILL) received")],
    ids=["lightning", "torchrun"],
)
def test_so_does_the_death_of_one(tmp_path, launcher, said):
    assert said in failed(tmp_path, launcher, "kill", 1, "train")


@pytest.mark.slow
def test_a_rank_of_a_command_that_is_killed_ends_the_command(tmp_path):
    video, program = tmp_path / "video.mp4", str(Path(sys.executable).with_name("longlive"))
    arguments = ["a red circle", "-o", str(video), "--seconds", "60", "--nproc", "2"]
    with subprocess.Popen(
        [program, "generate", *arguments], stderr=subprocess.PIPE, text=True
    ) as command:
        end = time.monotonic() + LIMIT
        while not (video.is_file() and video.stat().st_size) and time.monotonic() < end:
            time.sleep(0.2)
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        printed = command.communicate(timeout=60)[1]
    assert command.returncode not in (0, None)
    assert "local rank 1 was killed by signal 9" in printed
    assert len(read_video(video)[0]) > 0  # what was made before is there


def test_ranks_that_wait_are_ended_and_those_that_were_killed_are_named(monkeypatch, caplog):
    monkeypatch.setattr(sharded_strategy, "GRACE", 0.5)
    waits, killed, ended = (
        subprocess.Popen([sys.executable, "-c", code])
        for code in ("import time; time.sleep(600)", "import time; time.sleep(600)", "")
    )
    killed.kill()
    began = time.monotonic()
    sharded_strategy.end_ranks([waits, killed, ended])
    assert time.monotonic() - began < 30
    assert [process.returncode for process in (waits, killed)] == [-signal.SIGKILL] * 2
    assert ended.poll() is not None
    assert [record.getMessage() for record in caplog.records][:1] == [
        "local rank 2 was killed by signal 9"
    ]
