"""Whole runs over several processes, started as users start them: trained, resumed, exported."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longlive_models.checkpoints.folder import load_part
from longlive_recipes.train_ar import TrainARModule
from longlive_recipes.training.sharded_checkpoints import read_checkpoint
from tests.recipes.tiny_runs import ar_config, column, load_last, write_tiny_vae

pytestmark = pytest.mark.slow  # each run starts its processes anew

BATCHES = "phases.0.batch=2", "phases.1.batch=2", "validation_clips=2"
BRIEF = "run.samples_every=0", "run.validate_every=2", "run.progress_bar=false"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_tiny_vae(folder / "vae")
    return folder


def train(folder: Path, *arguments: str, **settings: int | str) -> str:
    """Run `longlive train ar_tiny` there; returns what it printed."""
    program = str(Path(sys.executable).with_name("longlive"))  # a file, which a launcher runs again
    named = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    wanted = [part for one in (*BATCHES, *BRIEF, "vae=vae", *named) for part in ("--set", one)]
    done = subprocess.run(
        [program, "train", "ar_tiny", *wanted, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Transformer and text encoder of a model folder."""
    parts = {part: load_part(folder / part)[1] for part in ("transformer", "text_encoder")}
    return {f"{part}.{name}": x for part, some in parts.items() for name, x in some.items()}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert torch.allclose(x.float(), other[name].float(), rtol=1e-2, atol=1e-4), name


def test_a_run_over_ranks_learns_what_one_rank_does_and_goes_on_with_fewer(folder):
    train(folder, run__output="one")
    printed = train(folder, run__output="two", parallel__data=2)
    assert printed == "two/model\n"  # of one process, not of each
    assert column(folder / "two" / "train.csv", "loss") == pytest.approx(
        column(folder / "one" / "train.csv", "loss"), rel=1e-4
    )
    assert_close(weights(folder / "two" / "model"), weights(folder / "one" / "model"))

    kept = read_checkpoint(folder / "two" / "checkpoints" / "last.ckpt")
    assert kept["state_dict"].keys() == load_last(folder / "one")["state_dict"].keys()
    longer = {"budget__steps": 6, "run__output": "on_one_rank"}
    train(folder, "--resume", "two", **longer)
    train(folder, "--resume", "two", **longer | {"run__output": "on_two"}, parallel__sequence=2)
    first, second = (folder / name / "train.csv" for name in ("on_one_rank", "on_two"))
    assert column(first, "step") == [5, 6]
    assert column(second, "loss") == pytest.approx(column(first, "loss"), rel=1e-4)

    wanted = weights(folder / "two" / "model")
    for weight in (folder / "two" / "model").rglob("*.safetensors"):
        weight.unlink()
    assert train(folder, "--resume", "two", "--export", run__output="two") == "two/model\n"
    exported = weights(folder / "two" / "model")
    assert exported.keys() == wanted.keys()
    assert all(torch.equal(x, wanted[name]) for name, x in exported.items())


def test_a_checkpoint_holds_each_weight_once(folder):
    train(folder, run__output="once", parallel__sequence=2)
    module = TrainARModule(ar_config(folder / "plain", folder / "vae"))
    module.configure_model()
    kept = read_checkpoint(folder / "once" / "checkpoints" / "last.ckpt")
    assert kept["state_dict"].keys() == module.state_dict().keys()
