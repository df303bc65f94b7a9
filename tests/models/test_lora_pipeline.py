"""from_pretrained(lora=...): adapters in what is made, in hashes, and in snapshots."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.adapters import attach, read_adapter, write_adapter
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.lora import adapters
from longlive_models.lora_source import LoRASource, lora_texts
from longlive_models.runtime_options import RuntimeOptions
from tests.models.adapters.layouts import adapter, in_layout
from tests.models.tiny_pipeline import write_tiny_folder

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("lora") / "model")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    save_file(in_layout(adapter(seed=1), "kohya"), place / "a.safetensors")
    write_adapter(adapter(seed=2), place / "b")
    return place / "a.safetensors", place / "b"


def load(folder, **options) -> LongLivePipeline:
    return LongLivePipeline.from_pretrained(str(folder), device="cpu", **options)


def test_adapters_are_added_with_their_weights(folder, files):
    pipe, plain = load(folder, lora=[(files[0], 0.5), files[1]]), load(folder)
    read = [read_adapter(file, plain.transformer) for file in files]
    attach(plain.transformer, [(read[0], 0.5), (read[1], 1.0)]).fuse()
    for name, tensor in plain.transformer.state_dict().items():
        assert_bitwise_equal(pipe.transformer.state_dict()[name], tensor)
    assert pipe.runtime.lora == (f"{files[0]}:0.5", f"{files[1]}:1.0")
    assert not torch.equal(pipe(PROMPT, seconds=1).frames, load(folder)(PROMPT, seconds=1).frames)


def test_packed_weights_stay_packed_and_adapters_stand_beside_them(folder, files):
    packed = load(folder, weights="nvfp4", lora=files[0])
    assert dict(adapters(packed.transformer))
    assert packed.fingerprint == load(folder, weights="nvfp4", lora=files[0]).fingerprint
    assert packed(PROMPT, seconds=1).frames.shape[0] == 8
    with pytest.raises(ValueError, match="have adapters beside their weights"):
        packed.save_pretrained(folder.parent / "new")


def test_the_fingerprint_names_the_adapters_and_their_weights(folder, files):
    plain = load(folder)
    assert plain.fingerprint == fingerprint(folder)
    several = [files[0], (files[0], 0.5), files[1], [files[0], files[1]], [files[1], files[0]]]
    hashes = [load(folder, lora=one).fingerprint for one in several]
    assert len({plain.fingerprint, *hashes}) == len(several) + 1
    again = load(folder, lora=files[0])
    assert again.fingerprint == hashes[0]
    with torch.no_grad():
        again.transformer.head.head.bias.add_(1)
    assert again.fingerprint != hashes[0]


def test_a_snapshot_goes_on_with_the_same_adapters_alone(folder, files, tmp_path):
    pipe = load(folder, lora=files[0])
    whole = pipe(PROMPT, seconds=2, seed=3).frames
    with pipe.stream(PROMPT, seconds=2, seed=3) as stream:
        first = next(stream).frames
        stream.snapshot(tmp_path / "s.safetensors")
    again = load(folder, lora=files[0])
    rest = torch.cat([block.frames for block in again.resume(tmp_path / "s.safetensors")])
    assert_bitwise_equal(torch.cat([first, rest]), whole)
    for other in ((), files[1], (files[0], 0.5)):
        with pytest.raises(ValueError, match="was made with model"):
            load(folder, lora=other).resume(tmp_path / "s.safetensors")


def test_what_does_not_fit_is_refused_before_weights_are_read(folder, files, tmp_path, monkeypatch):
    monkeypatch.setattr("longlive_models.loading.load_parts", None)
    wrong = in_layout(adapter(), "comfyui")
    save_file(
        {k.replace("blocks.1", "blocks.9"): x for k, x in wrong.items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(ValueError, match="w.safetensors: it has matrices for 2 linears"):
        load(folder, lora=tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="there is no adapter"):
        load(folder, lora="nowhere.safetensors")
    with pytest.raises(TypeError, match="not callable"):  # weights are read by this function
        load(folder)


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ((), ()),
        ("a.safetensors", ("a.safetensors:1.0",)),
        ("a.safetensors:0.25", ("a.safetensors:0.25",)),
        (("a.pt", 2), ("a.pt:2.0",)),
        (["a.pt:-1", ("b.pt", 0.5)], ("a.pt:-1.0", "b.pt:0.5")),
        (["a.pt", "b.pt"], ("a.pt:1.0", "b.pt:1.0")),
    ],
)
def test_adapters_are_named_in_several_ways(given, texts):
    assert lora_texts(given) == texts == lora_texts(texts)
    assert RuntimeOptions(lora=texts).lora == texts


def test_a_file_whose_name_has_a_colon_is_taken_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:2").write_bytes(b"")
    assert lora_texts("a:2") == ("a:2:1.0",)
    assert lora_texts(lora_texts("a:2")) == ("a:2:1.0",)


@pytest.mark.parametrize(
    "wrong", ["a.pt:x", ":1", "", "a.pt:1e300", "a.pt:nan", 3, [3], [("a", "b", 1)]]
)
def test_what_names_no_adapter_is_refused(wrong):
    with pytest.raises(ValueError, match="lora|weight of"):
        lora_texts(wrong)


def test_a_weight_is_bounded():
    with pytest.raises(ValueError, match="the weight of a is at most 100, got 1e\\+300"):
        LoRASource(Path("a"), 1e300)
