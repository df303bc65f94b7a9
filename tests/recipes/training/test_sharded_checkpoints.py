"""Sharded checkpoints: what was written comes back, and nothing in their files runs."""

import io
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from longlive_recipes.training.fit import check_run, completed_steps
from longlive_recipes.training.sharded_checkpoints import (
    META,
    METADATA,
    load_shards,
    read_checkpoint,
    read_metadata,
    read_shards,
)
from tests.recipes.tiny_runs import Toy, quiet_run

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def state() -> dict:
    return {
        "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
        "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "names": ["a", "b"], "fused": None}],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    dcp.save(state(), checkpoint_id=tmp_path / "whole")
    torch.save({"global_step": 3}, tmp_path / "whole" / META)
    return tmp_path / "whole"


def test_all_of_a_checkpoint_comes_back(folder):
    found = read_shards(folder)
    assert found["groups"] == state()["groups"]
    assert found["weights"].keys() == state()["weights"].keys()
    for name, tensor in state()["weights"].items():
        assert found["weights"][name].dtype == tensor.dtype
        assert torch.equal(found["weights"][name], tensor)


def test_and_of_what_is_asked_for_in_place(folder):
    wanted = {
        "weights": {"a": torch.zeros(2, 3)},
        "groups": [{"lr": 0.0, "betas": (), "names": []}],
    }
    into = wanted["weights"]["a"]
    load_shards(wanted, folder)
    assert torch.equal(into, state()["weights"]["a"])
    assert wanted["groups"][0] == {"lr": 0.1, "betas": (0.9, 0.99), "names": ["a", "b"]}


def test_where_it_was_written_is_a_mere_name(folder):
    assert str(read_metadata(folder).storage_meta.checkpoint_id) == str(folder)
    assert not isinstance(read_metadata(folder).storage_meta.checkpoint_id, Path)


def test_metadata_that_would_run_code_are_refused_before_anything_runs(folder, tmp_path):
    ran = tmp_path / "ran"
    held = read_metadata(folder)
    held.planner_data["weights.a"] = Touch(ran)
    (folder / METADATA).write_bytes(pickle.dumps(held))
    run = quiet_run(tmp_path / "new")
    calls = {
        "read_metadata": lambda: read_metadata(folder),
        "read_shards": lambda: read_shards(folder),
        "load_shards": lambda: load_shards(state(), folder),
        "read_checkpoint": lambda: read_checkpoint(folder),
        "completed_steps": lambda: completed_steps(folder),
        "check_run": lambda: check_run(run, Toy(run=run), resume=str(folder)),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"pathlib.*nothing of it was run") as refused:
            call()
        assert "\n" not in str(refused.value), name
    assert not ran.exists()
    pickle.loads((folder / METADATA).read_bytes())
    assert ran.exists(), "the file does run code where nothing holds it back"


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b'cbuiltins\nexec\n(S\'open("ran", "w")\'\ntR.',
        b"cbuiltins\ngetattr\n.",
        b"ctorch\nload\n.",
        b"ctorch.serialization\nload\n.",
        b"ctorch.distributed.checkpoint.filesystem\npickle.loads\n.",
        b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05torch\x8c\x0cserialization\x93.",
        b"cpathlib\nPath\n.",
        b"(ios\nsystem\nS'touch ran'\no.",
        b"\x82\x01.",
        b"Pabc\n.",
    ],
)
def test_no_other_name_is_looked_up(folder, monkeypatch, code):
    monkeypatch.chdir(folder)
    (folder / METADATA).write_bytes(code)
    with pytest.raises(ValueError, match="is no metadata of a sharded checkpoint"):
        read_metadata(folder)
    assert not (folder / "ran").exists()


def test_values_that_would_run_code_are_refused_before_anything_runs(folder, tmp_path):
    """The places of values hold pickles of their own, in the files of the ranks."""
    ran = tmp_path / "ran"
    held = read_metadata(folder)
    [place] = [at for key, at in held.storage_data.items() if key.fqn == "groups.0.lr"]
    planted = io.BytesIO()
    torch.save(Touch(ran), planted)
    file = folder / place.relative_path
    place.offset, place.length = file.stat().st_size, len(planted.getvalue())
    file.write_bytes(file.read_bytes() + planted.getvalue())
    held.storage_meta = None
    (folder / METADATA).write_bytes(pickle.dumps(held))
    wanted = {"groups": [{"lr": 0.0}]}
    for call in (lambda: read_shards(folder), lambda: load_shards(wanted, folder)):
        with pytest.raises(ValueError, match=r"whole cannot be loaded \(Weights only load failed"):
            call()
    assert not ran.exists()


def test_what_is_kept_beside_the_tensors_runs_nothing(folder, tmp_path):
    torch.save({"global_step": Touch(tmp_path / "ran")}, folder / META)
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        completed_steps(folder)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_in_one_file_runs_nothing(tmp_path):
    torch.save({"global_step": Touch(tmp_path / "ran")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        completed_steps(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()


def _larger(held, folder):
    held.state_dict_metadata["weights.a"].size = torch.Size([1 << 40])


def _elsewhere(held, folder):
    (folder.parent / "secret").write_bytes(b"x" * 100)
    next(iter(held.storage_data.values())).relative_path = "../secret"


def _long_list(held, folder):
    held.planner_data["groups.0.lr"] = ("groups", 1 << 40, "lr")


def _no_path(held, folder):
    del held.planner_data["weights.a"]


def _gone(held, folder):
    (folder / next(iter(held.storage_data.values())).relative_path).unlink()


def _no_place(held, folder):
    held.storage_data = {"weights.a": "here"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_larger, "its tensors take 4,398,"),
        (_elsewhere, r"it names '../secret', which is no file there"),
        (_long_list, "its names lead nowhere"),
        (_no_path, "its names lead nowhere"),
        (_gone, "which is no file there"),
        (_no_place, "'here' is no place of a value"),
    ],
)
def test_metadata_that_are_not_of_the_files_beside_them_are_refused(folder, change, told):
    held = read_metadata(folder)
    change(held, folder)
    held.storage_meta = None
    (folder / METADATA).write_bytes(pickle.dumps(held))
    with pytest.raises(ValueError, match=told):
        read_shards(folder)


def test_half_a_file_of_metadata_is_refused(folder):
    content = (folder / METADATA).read_bytes()
    for kept in (0, 1, 10, len(content) // 2, len(content) - 1):
        (folder / METADATA).write_bytes(content[:kept])
        with pytest.raises(ValueError, match="is no metadata of a sharded checkpoint"):
            read_metadata(folder)
    (folder / METADATA).write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="it holds a list"):
        read_metadata(folder)
    (folder / METADATA).unlink()
    with pytest.raises(ValueError, match="lacks .metadata"):
        read_metadata(folder)
