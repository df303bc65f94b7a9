"""A model folder's configs against its weights, before anything is built or allocated."""

import json
from pathlib import Path

import pytest

from longlive_models import LongLivePipeline
from tests.models.tiny_pipeline import write_tiny_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_tiny_folder(tmp_path / "model")


def change(folder: Path, part: str, **values: object) -> None:
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("transformer", "num_layers", 1_000),
        ("text_encoder", "num_layers", 1_000),
    ],
)
def test_layers_that_have_no_weights_are_refused_before_they_are_built(folder, part, name, value):
    change(folder, part, **{name: value})
    with pytest.raises(ValueError, match=f"{part}/config.json has {name}={value}, but the files"):
        LongLivePipeline.from_pretrained(str(folder))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_file_that_is_not_whole_is_seen_before_a_weight_is_read(folder, part, monkeypatch):
    monkeypatch.setattr(
        "longlive_models.checkpoints.folder.read_safetensors", lambda file: pytest.fail(str(file))
    )
    file = folder / part / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"{part}/model.safetensors is not whole: it has .* of "):
        LongLivePipeline.from_pretrained(str(folder))
    file.write_bytes(whole)
    with pytest.raises(pytest.fail.Exception):  # then weights are read
        LongLivePipeline.from_pretrained(str(folder))


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        ("text_encoder", {"dim": 60_000, "num_heads": 1}, "text encoder|different models"),
        ("text_encoder", {"ffn_dim": 60_000}, r"wrong shapes: layers.0.ffn.0.bias \[16\]"),
        ("transformer", {"ffn_dim": 10**6}, "wrong shapes: blocks.0.ffn.0.bias"),
        ("transformer", {"freq_dim": 10**6}, "wrong shapes: time_embedding"),
        ("vae", {"num_res_blocks": 100}, "not the weights of this VAE"),
        ("vae", {"encoder_dim": 2**16}, "not the weights of this VAE"),
    ],
)
def test_widths_that_no_memory_holds_are_refused_without_any(folder, part, values, told):
    change(folder, part, **values)
    with pytest.raises(ValueError, match=told):
        LongLivePipeline.from_pretrained(str(folder))
