"""Runs that were begun with the code of commit cc03c32 go on with the numbers they would have had.

``stored_runs/plain`` and, on two ranks, ``stored_runs/sharded`` are the toy's, stopped after three
steps; the tables beside them are those of the run that was never stopped.
"""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from longlive_recipes.training.fit import check_run, completed_steps, find_checkpoint, load_average
from longlive_recipes.training.sharded_checkpoints import read_checkpoint
from tests.recipes.on_ranks import train_toy_on_ranks
from tests.recipes.tiny_runs import Toy, ToyModule, column, quiet_run, train_toy

STORED = Path(__file__).parents[1] / "stored_runs"


def assert_as_never_stopped(folder: Path) -> None:
    """The rows that were stored, and those that were written since, are the whole run's."""
    for name in ("loss", "learning_rate"):
        assert column(folder / "train.csv", name) == pytest.approx(
            column(STORED / "train.csv", name), rel=1e-5
        )
    for name in ("slope", "offset"):
        assert column(folder / "validation.csv", name) == pytest.approx(
            column(STORED / "validation.csv", name), rel=1e-5
        )


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A copy of a stored run, in a folder of the name that its record has."""

    def copy(name: str) -> Path:
        shutil.copytree(STORED / name, tmp_path / name, symlinks=True)
        monkeypatch.chdir(tmp_path)
        return Path(name)

    return copy


def test_a_run_of_one_rank_goes_on(stored):
    folder = stored("plain")
    assert completed_steps(find_checkpoint(str(folder))) == 3
    config = Toy(run=quiet_run(folder))
    parts = nn.ModuleDict({"line": nn.Linear(1, 1)})
    check_run(config.run, config, resume=str(folder), parts=lambda: parts)
    train_toy(config, resume=folder)
    assert_as_never_stopped(folder)


def test_so_does_a_run_of_two_ranks(stored, two_ranks):
    folder = stored("sharded")
    parts, run = nn.ModuleDict({"line": nn.Linear(1, 1)}), quiet_run(folder)
    check_run(run, Toy(run=run), resume=str(folder), parts=lambda: parts)
    two_ranks(2, train_toy_on_ranks, str(folder.absolute().parent), folder.name, str(folder))
    assert_as_never_stopped(folder)


def test_and_one_of_two_ranks_goes_on_with_one(stored, tmp_path):
    stored("sharded")
    train_toy(Toy(run=quiet_run(tmp_path / "one")), resume=Path("sharded"))
    losses = column(STORED / "train.csv", "loss")
    assert column(tmp_path / "one" / "train.csv", "loss") == pytest.approx(losses[3:], rel=1e-5)


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_their_averages_are_read(name):
    module = ToyModule(Toy(run=quiet_run("unused")))
    assert load_average(module, str(STORED / name)) == 3
    kept = read_checkpoint(find_checkpoint(str(STORED / name)))
    average = kept["callbacks"]["MovingAverage"]["average"]
    assert torch.equal(module.line.weight, average["line.weight"])
    assert not torch.equal(average["line.weight"], kept["state_dict"]["line.weight"])
