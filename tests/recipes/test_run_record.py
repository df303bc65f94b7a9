"""What is written about a run, and how two of them are compared."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core import __version__
from longlive_recipes import run_record
from longlive_recipes.run_record import (
    as_plain,
    code_version,
    differences,
    read_run_record,
    replace_file,
    write_run_record,
)
from longlive_recipes.training.schedule import Phase, TrainingSchedule

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


def test_a_config_becomes_plain_values():
    config = {"phases": (Phase(length=1, batch=2, until=1.0),), 3: Path("a/b"), "x": None}
    assert as_plain(config) == {
        "phases": [{"length": 1, "batch": 2, "until": 1.0}],
        "3": "a/b",
        "x": None,
    }


@given(plain, plain)
def test_equal_values_differ_in_nothing_and_others_in_something(one, other):
    assert differences(one, one) == []
    assert bool(differences(one, other)) == (one != other)


def test_differences_are_named_by_where_they_are():
    before = {"budget": {"steps": 4, "minutes": None}, "phases": [{"batch": 2}], "old": 1}
    now = {"budget": {"steps": 6, "minutes": None}, "phases": [{"batch": 3}], "new": "a"}
    assert differences(before, now) == [
        "budget.steps: 4 -> 6",
        "phases.0.batch: 2 -> 3",
        "old: 1 -> nothing",
        'new: nothing -> "a"',
    ]
    assert differences(before, now, ignore=["budget", "old", "new", "phases.0.batch"]) == []
    assert differences({"steps": 1}, {"steps": 2}, ignore=["step"]) == ["steps: 1 -> 2"]
    assert differences([1], [1, 2]) == [": [1] -> [1, 2]"]


def test_a_record_says_what_ran_where(tmp_path):
    write_run_record(
        tmp_path / "new", TrainingSchedule(steps=7, warmup_steps=0), torch.device("cpu")
    )
    record = read_run_record(tmp_path / "new")
    assert record["recipe"] == "TrainingSchedule"
    assert record["config"]["steps"] == 7
    assert record["torch"] == torch.__version__
    assert record["command"] == sys.argv
    assert record["hardware"]["device"] == "cpu"
    assert record["code"] == code_version()
    assert read_run_record(tmp_path) is None


def test_an_older_record_has_its_fields_under_the_names_of_today(tmp_path):
    """As a run of 0.1 wrote it: the spelling of two fields was another."""
    config = {"quantised": {"forward": True}, "optimisation": {"ema_decay": 0.5}, "seed": 0}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "TrainAR", "config": config}))
    assert read_run_record(tmp_path) == {
        "recipe": "TrainAR",
        "config": {"quantized": {"forward": True}, "optimization": {"ema_decay": 0.5}, "seed": 0},
    }


def test_a_record_is_json_whatever_the_numbers_of_a_config(tmp_path):
    """Other readers know no Infinity, and refuse the whole file."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    @dataclass(frozen=True)
    class Config:
        until: float
        parts: tuple[float, ...]

    config = Config(math.inf, (-math.inf, math.nan, 1.5))
    write_run_record(tmp_path, config, torch.device("cpu"))
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text, parse_constant=refuse)["config"] == {
        "until": "inf",
        "parts": ["-inf", "nan", 1.5],
    }
    write_run_record(tmp_path, config, torch.device("cpu"), resumed={"step": 3})
    assert read_run_record(tmp_path)["config"]["until"] == "inf"
    resumed = {"step": 3, "loss": math.inf}
    with pytest.raises(ValueError, match="run.json cannot be written as JSON"):
        write_run_record(tmp_path, config, torch.device("cpu"), resumed=resumed)
    assert json.loads((tmp_path / "run.json").read_text())["resumed"][0]["step"] == 3


def test_a_folder_is_no_record_of_a_run(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(ValueError, match="run.json cannot be read .Is a directory"):
        read_run_record(tmp_path)


def test_a_run_resumed_into_a_fresh_folder_is_recorded_whole(tmp_path):
    write_run_record(tmp_path, TrainingSchedule(), torch.device("cpu"), resumed={"step": 3})
    record = read_run_record(tmp_path)
    assert record["config"]["steps"] == 1000
    assert record["resumed"][0]["step"] == 3
    assert record["resumed"][0]["torch"] == torch.__version__


def test_the_code_is_a_commit_of_its_own_tree_alone(tmp_path, monkeypatch):
    here = Path(run_record.__file__)
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    shutil.copy(here, tmp_path / "run_record.py")
    monkeypatch.setattr(run_record, "__file__", str(tmp_path / "run_record.py"))
    # installed below a repository of somebody else's: git does not track the file
    assert code_version() == f"longlive {__version__}"
    subprocess.run([*git, "add", "run_record.py"], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, *who, "commit", "-qm", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit.stdout.startswith(code_version())
    assert len(code_version()) == 12


def test_a_file_is_replaced_in_one_move(tmp_path):
    path = tmp_path / "run.json"
    replace_file(path, json.dumps({"a": 1}))
    held = path.open()
    replace_file(path, json.dumps({"a": 2}))
    assert json.load(held) == {"a": 1}  # who had it open still reads the old one, whole
    held.close()
    assert json.loads(path.read_text()) == {"a": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
