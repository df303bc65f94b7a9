"""Where numbers go beside TensorBoard and CSV: the seam to Lightning's loggers, and the real ones.

Weights & Biases and MLflow are large, and no part of what tests need: where they are not installed,
Lightning's own classes are replaced by one that keeps what it is told.
"""

import importlib
import json
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest
from pytorch_lightning import loggers as lightning

from longlive_recipes.configs.run import Run
from longlive_recipes.training import loggers
from longlive_recipes.training.loggers import check_loggers, make_loggers
from tests.recipes.tiny_runs import Stopped, Toy, quiet_run, stop_at, train_toy


class Kept(lightning.logger.Logger):
    """Keeps what it is made with and what it is told."""

    made: list["Kept"] = []

    def __init__(self, **named):
        super().__init__()
        self.named = named
        self.rows: list[tuple[int, dict]] = []
        self.settings: dict = {}
        self.run_id = named.get("run_id") or "run-1"
        Kept.made.append(self)

    name = "kept"
    version = "0"

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, params):
        self.settings = params


@pytest.fixture
def kept(monkeypatch):
    spec = ModuleSpec("there", None, origin="there.py")
    monkeypatch.setattr(loggers, "find_spec", lambda name: spec)
    monkeypatch.setattr(lightning, "WandbLogger", Kept)
    monkeypatch.setattr(lightning, "MLFlowLogger", Kept)
    monkeypatch.setattr(Kept, "made", [])
    return Kept.made


def test_each_logger_gets_the_config_once_and_every_row(tmp_path, kept):
    config = Toy(run=quiet_run(tmp_path, loggers=("wandb", "mlflow")))
    with pytest.raises(Stopped):
        train_toy(config, before=stop_at(5))
    wandb, mlflow = kept
    assert wandb.named["project"] == mlflow.named["experiment_name"] == "longlive"
    assert wandb.named["name"] == mlflow.named["run_name"] == tmp_path.name
    assert wandb.settings["budget.steps"] == mlflow.settings["budget.steps"] == 8
    for logger in kept:
        assert [step for step, row in logger.rows if "loss" in row] == [1, 2, 3, 4, 5]
        assert [step for step, row in logger.rows if "offset" in row] == [2, 4]
        assert [step for step, row in logger.rows if "seconds_a_step" in row] == [1, 2, 3, 4, 5]
    ids = json.loads((tmp_path / "loggers.json").read_text())
    assert ids == {"wandb": wandb.named["id"], "mlflow": "run-1"}

    train_toy(config, resume=tmp_path)
    again = kept[2:]
    assert again[0].named["id"] == wandb.named["id"]
    assert again[1].named["run_id"] == "run-1"
    assert [logger.settings for logger in again] == [{}, {}]
    assert json.loads((tmp_path / "loggers.json").read_text()) == ids


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r'pip install "longlive\[wandb\]", or leave the logger out'
    ):
        check_loggers(["wandb"])
    monkeypatch.setattr(loggers, "find_spec", lambda name: ModuleSpec(name, None))  # a folder
    with pytest.raises(ValueError, match=r"longlive\[mlflow\]"):
        train_toy(Toy(run=quiet_run(tmp_path / "new", loggers=("mlflow",))))
    assert not (tmp_path / "new").exists()
    extras = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert all(f"\n{name} = [" in extras for name in ("wandb", "mlflow"))


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="there is no logger 'comet': numbers go to wandb and mlf"):
        check_loggers(["comet"])
    for wrong in (("comet",), ("wandb", "wandb")):
        with pytest.raises(ValueError, match="Run.loggers are some of wandb, mlflow, each once"):
            Run(output="runs/x", loggers=wrong)


def test_a_server_that_refuses_ends_the_run_before_it_begins(tmp_path, kept, monkeypatch):
    def refuse(self, params):
        raise RuntimeError("no such\nproject")

    monkeypatch.setattr(Kept, "log_hyperparams", refuse)
    with pytest.raises(ValueError, match=r"the logger wandb cannot begin: no such project Look"):
        make_loggers(quiet_run(tmp_path, loggers=("wandb",)), Toy(run=quiet_run(tmp_path)))


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs the extra longlive[mlflow]")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_a_run_in_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants to be told so
    train_toy(Toy(run=quiet_run(tmp_path, loggers=("mlflow",))))
    [losses] = tmp_path.glob("mlruns/*/*/metrics/loss")
    steps = [int(line.split()[2]) for line in losses.read_text().splitlines()]
    assert steps == list(range(1, 9))
    [seed] = tmp_path.glob("mlruns/*/*/params/seed")
    assert seed.read_text() == "3"


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs the extra longlive[wandb]")
@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_toy(Toy(run=quiet_run(tmp_path, loggers=("wandb",))))
    importlib.import_module("wandb").finish()  # as it does itself when a process ends
    [run] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"slope" in run.read_bytes()
