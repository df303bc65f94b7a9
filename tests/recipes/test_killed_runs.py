"""Runs that are killed at any moment, error bank and parts of batches included, and go on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longlive_recipes import train_ar
from longlive_recipes.training.schedule import TrainingSchedule
from tests.recipes.test_train_ar_options import EVERYTHING
from tests.recipes.tiny_runs import (
    ROOT,
    ar_config,
    assert_equal,
    assert_same_run,
    load_last,
    write_tiny_vae,
)

STEPS, KILLS = 60, 10


def config(output: Path, vae: Path) -> train_ar.TrainAR:
    budget = TrainingSchedule(steps=STEPS, warmup_steps=5)
    return ar_config(output, vae, **EVERYTHING, budget=budget)


def start(output: Path, vae: Path) -> subprocess.Popen:
    """The run in a process of its own, which goes on where there is a checkpoint."""
    code = (
        "from tests.recipes.test_killed_runs import *\n"
        f"output = Path({str(output)!r})\n"
        "there = (output / 'checkpoints' / 'last.ckpt').exists()\n"
        f"train_ar.run(config(output, Path({str(vae)!r})), resume=str(output) if there else None)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_number(tmp_path):
    """Wherever a process dies, within a step, a checkpoint or a log: the run ends as without it."""
    vae = write_tiny_vae(tmp_path / "vae")
    train_ar.run(config(tmp_path / "whole", vae))
    chance, output = random.Random(0), tmp_path / "killed"
    for _ in range(KILLS):
        before = written(output)
        with start(output, vae) as process:
            while process.poll() is None and written(output) == before:
                time.sleep(0.01)  # until steps have begun: from here on any moment will do
            time.sleep(chance.uniform(0, 0.3))
            assert process.poll() is None, process.stderr.read().decode() or "the run is over"
            os.kill(process.pid, signal.SIGKILL)
    with start(output, vae) as process:
        assert process.wait() == 0, process.stderr.read().decode()
    assert_same_run(output, tmp_path / "whole")
    one, other = (load_last(folder)["recycled_errors"] for folder in (output, tmp_path / "whole"))
    assert_equal(one, other, "errors")


def written(output: Path) -> int:
    """When the run's checkpoint was written."""
    checkpoint = output / "checkpoints" / "last.ckpt"
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
