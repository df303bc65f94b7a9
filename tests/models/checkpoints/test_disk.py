"""A disk that is full while weights are written: the system's error, and nothing half-written."""

import errno
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from longlive_core.nvfp4 import QuantizeConfig
from longlive_models.checkpoints.disk import copy_tree, save_tensors, told_by_the_system
from longlive_models.checkpoints.folder import save_part
from longlive_models.checkpoints.nvfp4 import PackedConfig
from longlive_models.checkpoints.nvfp4_packing import pack_model_folder
from longlive_models.stream_snapshot import SnapshotSummary
from tests.cli.tiny_model import write_tiny_model
from tests.models.tiny_pipeline import tiny_pipeline


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file grows above so many bytes: what a full disk is, for one process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_snapshot_that_does_not_fit_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.snapshot"
    with tiny_pipeline().stream("a red circle", seconds=3) as stream:
        next(stream)
        stream.snapshot(path)
        before = path.read_bytes()
        next(stream)
        with files_of_at_most(1000), pytest.raises(OSError) as refusal:
            stream.snapshot(path)
    assert (refusal.value.errno, refusal.value.filename) == (errno.EFBIG, str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
    assert SnapshotSummary.read(path).block == 1


@pytest.mark.parametrize(
    ("size", "what"), [(1000, "model.safetensors"), (85_000, "1.unnumbered"), (100, "config.json")]
)
def test_a_model_that_does_not_fit_is_not_packed(size, what, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    if what == "1.unnumbered":  # what is copied fits, what is packed does not
        vae = model / "vae" / "model.safetensors"
        save_part(model / "vae", {}, {"w": torch.zeros(8)})
        (model / "text_encoder" / "model.safetensors").write_bytes(vae.read_bytes())
        size = vae.stat().st_size + 1000
    with files_of_at_most(size), pytest.raises(OSError) as refusal:
        pack_model_folder(model, tmp_path / "packed", PackedConfig(weight=QuantizeConfig()))
    assert refusal.value.errno == errno.EFBIG
    assert what in str(refusal.value.filename) or what == "config.json"
    assert list(tmp_path.iterdir()) == [model]


def test_a_part_of_a_model_that_does_not_fit_is_told_as_the_system_says_it(tmp_path):
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large") as refusal:
        save_part(tmp_path / "vae", {}, {"w": torch.zeros(1000)})
    assert refusal.value.errno == errno.EFBIG


def test_a_copy_names_the_first_file_that_cannot_be(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"0" * 5000)
    with files_of_at_most(1000), pytest.raises(OSError) as refusal:
        copy_tree(tmp_path / "a", tmp_path / "b", lambda folder, names: [])
    assert refusal.value.errno == errno.EFBIG
    assert Path(refusal.value.filename).name == "f"


def test_what_the_system_did_not_say_stays_as_it_is(tmp_path):
    with pytest.raises(SafetensorError, match="header"), told_by_the_system(tmp_path):
        raise SafetensorError("invalid header")


def test_files_of_weights_may_be_read_by_those_who_may_read_other_new_files(tmp_path):
    tensors = {"w": torch.zeros(8)}
    (tmp_path / "plain").write_text("")
    mode = (tmp_path / "plain").stat().st_mode
    save_tensors(tensors, tmp_path / "a.safetensors")
    save_part(tmp_path / "part", {}, tensors)
    pack_model_folder(
        write_tiny_model(tmp_path / "model"),
        tmp_path / "packed",
        PackedConfig(weight=QuantizeConfig()),
    )
    with tiny_pipeline().stream("a red circle", seconds=3) as stream:
        next(stream)
        stream.snapshot(tmp_path / "a.snapshot")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 12
    assert {path.name: oct(path.stat().st_mode) for path in files} == {
        path.name: oct(mode) for path in files
    }


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.safetensors"
    path.touch(0o640)
    path.chmod(0o640)
    save_tensors({"w": torch.zeros(8)}, path)
    assert oct(path.stat().st_mode & 0o777) == "0o640"


def test_a_file_that_cannot_be_written_is_not_left_empty(tmp_path):
    path, named = tmp_path / "a.part", tmp_path / "a.safetensors"
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large") as refusal:
        save_tensors({"w": torch.zeros(1000)}, path, named=named)
    assert refusal.value.filename == str(named)
    assert not list(tmp_path.iterdir())
