"""Distillations that are killed again and again, at any moment, end as if they never had been.

Targets, critics, both optimizers, the phase and what the judge has seen: on one rank and on two.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from longlive_models.checkpoints.folder import load_part
from longlive_recipes.training.sharded_checkpoints import read_checkpoint
from tests.recipes.tiny_runs import assert_equal, write_tiny_vae

pytestmark = pytest.mark.slow  # each run starts its processes anew, and there are many

KILLS = 10
STEPS = 14
LIMIT = 600.0  # seconds for one start
BRIEF = (
    "run.samples_every=0",
    "run.validate_every=5",
    "run.progress_bar=false",
    "run.checkpoint_minutes=0",
    "validation_clips=2",
    "phases.0.batch=2",
    "phases.1.batch=2",
    f"budget.steps={STEPS}",
    "vae=vae",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A VAE, a teacher and a student of few steps."""
    folder = tmp_path_factory.mktemp("kills")
    write_tiny_vae(folder / "vae")
    for recipe, more in (("ar_tiny", ()), ("cm_tiny", ("start_from=runs/ar_tiny/model",))):
        finish(folder, recipe, more, run=f"runs/{recipe}")
    return folder


def begin(
    folder: Path, recipe: str, settings: Sequence[str], *, run: str
) -> "subprocess.Popen[str]":
    """Start `longlive train`, or go on with what is in ``run``, as a group of processes."""
    program = str(Path(sys.executable).with_name("longlive"))
    named = [part for one in (*BRIEF, f"run.output={run}", *settings) for part in ("--set", one)]
    last = folder / run / "checkpoints" / "last.ckpt"
    resume = ("--resume", run) if last.exists() else ()
    return subprocess.Popen(
        [program, "train", recipe, *named, *resume],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, recipe: str, settings: Sequence[str], *, run: str) -> None:
    process = begin(folder, recipe, settings, run=run)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said


def rows(folder: Path) -> int:
    table = folder / "train.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def kill_at_random(
    folder: Path, recipe: str, settings: Sequence[str], *, run: str, kills: int
) -> None:
    """Kill a run ``kills`` times: after a random number of steps, some way into the next."""
    chance = random.Random(f"{recipe} {settings}")
    for kill in range(kills):
        process = begin(folder, recipe, settings, run=run)
        begun = time.monotonic()
        before = rows(folder / run)
        wanted = min(STEPS - 2, (kill + 1) * (STEPS - 2) // kills + chance.randint(-1, 1))
        while rows(folder / run) < wanted or (rows(folder / run) == before and kill % 2):
            ended = process.poll()
            assert ended is None, process.communicate()[1]
            assert time.monotonic() - begun < LIMIT
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


LORA = ("start_from=runs/ar_tiny/model", "lora_rank=4", "base=nvfp4")
DMD = ("teacher_from=runs/ar_tiny/model",)


RECIPES = {
    "consistency": ("cm_tiny", ("start_from=runs/ar_tiny/model",)),
    "all weights": ("dmd_tiny", (*DMD, "start_from=runs/cm_tiny/model", "pull=0.5")),
    "adapters": ("dmd_tiny", (*DMD, *LORA, "replay=true")),
}


@pytest.mark.parametrize("spread", ["data=1", "data=2", "sequence=2"])
@pytest.mark.parametrize("trained", RECIPES)
def test_ten_kills_change_no_number(folder, trained, spread):
    recipe, settings = RECIPES[trained]
    settings = (*settings, f"parallel.{spread}")
    name = f"runs/{trained.replace(' ', '_')}_{spread.replace('=', '_')}"
    finish(folder, recipe, settings, run=f"{name}_whole")
    kill_at_random(folder, recipe, settings, run=f"{name}_killed", kills=KILLS)
    finish(folder, recipe, settings, run=f"{name}_killed")
    one, other = folder / f"{name}_whole", folder / f"{name}_killed"
    for table in ("train.csv", "validation.csv"):
        assert (one / table).read_text() == (other / table).read_text()
    first, second = (
        read_checkpoint((run / "checkpoints" / "last.ckpt").resolve()) for run in (one, other)
    )
    for part in ("state_dict", "optimizer_states", "optimizers", "judge"):
        assert_equal(first[part], second[part], part)
    averages = [
        {key: state for key, state in made["callbacks"].items() if key.startswith("MovingAverage")}
        for made in (first, second)
    ]
    assert_equal(*averages, "averages")
    student, same = (load_part(run / "model" / "transformer")[1] for run in (one, other))
    assert all(torch.equal(student[key], same[key]) for key in student)
