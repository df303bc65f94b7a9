"""Files of weights: whole ones are read, all others are refused in words, and nothing runs."""

import io
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from longlive_models.checkpoints.nvfp4 import read_published
from longlive_models.checkpoints.tensor_files import (
    check_together,
    read_pickle,
    read_safetensors,
    read_shapes,
    read_tensors,
    require_numbers,
)
from longlive_models.lora import CONFIG, WEIGHTS, LoRAConfig, load_lora
from longlive_models.stream_snapshot import SnapshotSummary, StreamSnapshot
from longlive_models.text import UMT5Config, load_umt5
from longlive_models.vae import load_vae
from longlive_models.wan import read_state_dict

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(70, dtype=torch.bfloat16)}


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def pickled(*, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(TENSORS, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def safe(tensors=TENSORS) -> bytes:
    from safetensors.torch import save

    return save(tensors)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/readme.txt", "hello")
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9999\n"

NO_WEIGHTS = {
    "empty": (b"", "it is empty; .* Fetch it again"),
    "pointer": (LFS, "it is a Git LFS pointer; .*`git lfs pull`"),
    "page": (b"<!DOCTYPE html>\n<html><body>Log in</body>", "it is a web page; .*`hf download`"),
    "zeros": (bytes(4096), "it holds zeros; its download was not finished"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(64), "it is in GGUF; .* Take the model's safetensors"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "it is in HDF5"),
    "numpy": (array(), "it is an array of NumPy"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(64), "it is a compressed archive; .* Unpack it"),
    "text": ("Entrée interdite".encode(), "it is text; weights are binary"),
    "json": (b'{"message": "not found"}', "it is text"),
    "noise": (bytes(range(1, 256)) * 8, "its format is not known"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_holds_no_weights_is_named_for_what_it_is(kind, suffix, tmp_path):
    content, message = NO_WEIGHTS[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)model{suffix} cannot be read as .*: {message}"):
        read_tensors(path)


def test_a_name_that_says_another_kind_is_said(tmp_path):
    for legacy in (False, True):
        (tmp_path / "model.safetensors").write_bytes(pickled(legacy=legacy))
        with pytest.raises(ValueError, match=r"is a pickle, .* rename it to model.pt\."):
            read_tensors(tmp_path / "model.safetensors")
    (tmp_path / "model.pth").write_bytes(safe())
    with pytest.raises(ValueError, match=r"is a safetensors file, .* rename it to model.safetens"):
        read_tensors(tmp_path / "model.pth")
    (tmp_path / "other.pt").write_bytes(zipped())
    with pytest.raises(ValueError, match=r"a zip archive that torch.save did not write .*readme"):
        read_tensors(tmp_path / "other.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_both_kinds_of_pickle_are_read(legacy, tmp_path):
    (tmp_path / "model.pt").write_bytes(pickled(legacy=legacy))
    found = read_tensors(tmp_path / "model.pt")
    assert all(torch.equal(found[name], x) for name, x in TENSORS.items())


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "legacy.pt"])
def test_half_a_file_is_said_to_be_half(name, tmp_path):
    whole = safe() if name.endswith("safetensors") else pickled(legacy=name == "legacy.pt")
    path = tmp_path / name
    for kept in sorted({1, 7, 8, 9, 20, 60, len(whole) // 2, len(whole) - 1}):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=f"{name} (is not whole|cannot be read|.*in part)"):
            read_tensors(path)
    if name == "model.safetensors":
        with pytest.raises(ValueError, match=rf"{len(whole) - 1:,} bytes of {len(whole):,}"):
            read_tensors(path)
        with pytest.raises(ValueError, match="is not whole"):
            read_shapes(path)
    if name == "model.pt":
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="is not whole: its end"):
            read_tensors(path)


@pytest.mark.parametrize("position", range(0, 120, 7))
def test_no_broken_byte_ends_in_anything_but_words(position, tmp_path):
    for name, whole in (("model.safetensors", safe()), ("model.pt", pickled())):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        (tmp_path / name).write_bytes(bytes(broken))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read_tensors(tmp_path / name)
            except ValueError as error:
                assert name in str(error) or "weight" in str(error)


def test_headers_that_lie_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    lies = [
        b"[]",
        b"{}{",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": ["x", "y"]}}',
        b'{"a": {"dtype": "F32", "shape": [2000000], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "NOPE", "shape": [2], "data_offsets": [0, 8]}}',
        b"{" + b'"a":{' * 40_000,
    ]
    for header in lies:
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        with pytest.raises(ValueError, match=r"cannot be read as safetensors|is not whole"):
            read_safetensors(path)


@pytest.mark.parametrize("reader", [read_safetensors, read_shapes, StreamSnapshot.load])
def test_a_header_with_a_name_twice_is_refused(reader, tmp_path):
    """Either tensor would be read in silence, and the other one lost."""
    entry = '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
    other = entry.replace("[0, 8]", "[8, 16]")
    header = f"{{{entry}, {other}}}".encode()
    file = tmp_path / "m.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(ValueError, match="m.safetensors cannot be read as .*header has 'a' twice"):
        reader(file)


def test_what_is_not_there_is_told_with_what_is(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*check the path"):
        read_tensors(tmp_path / "model.pt")
    (tmp_path / "model.pt.part").touch()
    with pytest.raises(ValueError, match="only model.pt.part is there: its download was not fin"):
        read_tensors(tmp_path / "model.pt")
    (tmp_path / "away.pt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="it is a link to .*nowhere, which is not there"):
        read_tensors(tmp_path / "away.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ValueError, match="is a folder: name the file"):
        read_tensors(tmp_path / "folder.pt")
    cached = tmp_path / "models--owner--name" / "snapshots" / "abc"
    with pytest.raises(ValueError, match="owner/name was cached in part.*`hf download owner/name`"):
        read_tensors(cached / "model.pt")
    with pytest.raises(ValueError, match="neither .safetensors, .pt nor .pth"):
        read_tensors(tmp_path / "model.bin")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_that_are_no_numbers_are_refused_by_tensor_and_file(value, dtype, tmp_path):
    bad = torch.zeros(5, 7, dtype=dtype)
    bad[3, 2] = value
    for name, save in (("model.safetensors", save_file), ("model.pt", torch.save)):
        save(TENSORS | {"blocks.1.bias": bad}, tmp_path / name)
        with pytest.raises(ValueError, match=f"blocks.1.bias in .*{name} holds (-?inf|nan|3)"):
            read_tensors(tmp_path / name)


def test_largest_weights_that_count_as_numbers_are_read():
    require_numbers({"a": torch.tensor([2.0**63, -(2.0**63)]), "b": torch.empty(0)}, "here")
    with pytest.raises(ValueError, match="a in here holds"):
        require_numbers({"a": torch.tensor([1.0, -(2.0**64)])}, "here")
    for bits in (0x7F, 0xFF):
        eight = torch.tensor([0, bits], dtype=torch.uint8).view(torch.float8_e4m3fn)
        with pytest.raises(ValueError, match="c in here holds nan"):
            require_numbers({"c": eight}, "here")
    require_numbers({"c": torch.ones(3).to(torch.float8_e4m3fn), "d": torch.ones(3).int()}, "here")


def test_shapes_that_are_larger_than_what_is_stored_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="a in .* is no plain tensor: .*more values than are st"):
        read_tensors(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="it is torch.sparse_coo"):
        require_numbers({"a": torch.eye(3).to_sparse()}, "here")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3}, "int under 'epoch'"),
        ([torch.ones(2)], "a list"),
        ({}, "nothing"),
        ({3: torch.ones(2)}, "Tensor under 3"),
        ({"model": {"a": "b"}}, "str under 'a'"),
    ],
)
def test_other_content_is_told(content, found, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=f"holds no state dict: .* under model, got {found}"):
        read_tensors(tmp_path / "model.pt", holders=("model",))


def test_two_files_with_one_weight_are_two_models(tmp_path):
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"x": torch.ones(1), "y": torch.ones(1)}, one)
    save_file({"y": torch.zeros(1)}, two)
    with pytest.raises(ValueError, match=r"y is in both a.safetensors and b.safetensors of "):
        check_together({file: read_shapes(file) for file in (one, two)})
    with pytest.raises(ValueError, match=r"says that 'y' is in 'b.safetensors', but it is in a"):
        check_together({one: read_shapes(one)}, {"x": one.name, "y": two.name})
    with pytest.raises(ValueError, match=r"says that 'z' is in 'a.safetensors', but no file"):
        check_together({one: read_shapes(one)}, {"z": one.name})


TINY_TEXT = UMT5Config(vocab_size=8, dim=8, dim_attn=8, dim_ffn=8, num_heads=1, num_layers=1)


def _lora(path: Path) -> None:
    load_lora(torch.nn.Linear(2, 2), path)


def _text(path: Path) -> None:
    folder = path.parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    tokens = {"<unk>": 0, "<pad>": 1}
    model = {"type": "WordLevel", "vocab": tokens, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    load_umt5(path, folder, config=TINY_TEXT)


READERS = {
    "transformer": read_state_dict,
    "vae": load_vae,
    "text": _text,
    "packed": read_published,
    "adapter": _lora,
    "pickle": read_pickle,
}


@pytest.mark.parametrize("how", ["torch", "legacy", "plain", "protocol 2"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_what_a_pickle_names(reader, how, tmp_path):
    path, ran = tmp_path / "model_4o6.pt", tmp_path / "ran"
    content = {"generator": {"w": Touch(ran)}, "checkpoint_format": "longlive_generator_nvfp4"}
    if how in ("torch", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    else:
        path.write_bytes(pickle.dumps(content, protocol=2 if how == "protocol 2" else None))
    with pytest.raises(ValueError, match="(?s)without running code .* Nothing of it was run") as no:
        READERS[reader](path)
    assert "weights_only" not in str(no.value)  # torch's advice is to turn that off
    assert not ran.exists()


@pytest.mark.parametrize("reader", [StreamSnapshot.load, SnapshotSummary.read, read_shapes])
def test_nor_do_those_that_take_no_pickle(reader, tmp_path):
    torch.save({"a": Touch(tmp_path / "ran")}, tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match="file.safetensors"):
        reader(tmp_path / "file.safetensors")
    assert not (tmp_path / "ran").exists()


def test_nor_does_an_adapters_folder(tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps(LoRAConfig().to_peft()))
    torch.save({"a": Touch(tmp_path / "ran")}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="is a pickle, .* its name says otherwise"):
        _lora(tmp_path)
    assert not (tmp_path / "ran").exists()
