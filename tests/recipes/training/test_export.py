"""Model folders made of trained parts."""

import errno
import json
from dataclasses import replace

import pytest
import torch

from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import fingerprint, save_part
from longlive_models.checkpoints.hub import EMBEDDED
from longlive_models.settings import read_settings
from longlive_models.text import PocketTextConfig, PocketTextEncoder
from longlive_recipes.training.export import PARTS, find_vae, pack_model
from tests.cli.tiny_model import write_tiny_model


@pytest.fixture
def source(tmp_path):
    return write_tiny_model(tmp_path / "source")


def pack(folder, source, **changes):
    parts = {name: source / name for name in PARTS} | changes
    return pack_model(folder, **parts, settings=read_settings(source))


def test_a_packed_model_generates_what_its_parts_do(source, tmp_path):
    assert pack(tmp_path / "packed", source) == tmp_path / "packed"
    videos = [
        LongLivePipeline.from_pretrained(str(folder), device="cpu")("a red circle", seconds=1)
        for folder in (source, tmp_path / "packed")
    ]
    assert torch.equal(videos[0].frames, videos[1].frames)


def test_the_index_says_where_a_model_comes_from(source, tmp_path):
    parts = {name: source / name for name in PARTS}
    settings = replace(read_settings(source), guidance=1.5)
    folder = pack_model(tmp_path / "packed", **parts, settings=settings, trained={"step": 7})
    index = json.loads((folder / "model_index.json").read_text())
    assert index["trained"] == {"step": 7}
    assert index["weights_sha256"] == fingerprint(folder)
    assert read_settings(folder) == settings


def test_parts_that_lie_there_stay_and_others_are_replaced(source, tmp_path):
    before = fingerprint(source)
    pack(source, source)
    assert fingerprint(source) == before
    packed = pack(tmp_path / "packed", source)
    (packed / "vae" / "left_over.safetensors").touch()
    pack(packed, source)
    assert not (packed / "vae" / "left_over.safetensors").exists()


def test_parts_that_do_not_fit_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="takes 4 latent channels and gives 4, the VAE has 24"):
        pack(tmp_path / "packed", source, vae=EMBEDDED["pocket"] / "vae")
    text = PocketTextConfig(vocab=("a",), dim=8, num_heads=2, text_len=8)
    save_part(tmp_path / "text", text.to_dict(), PocketTextEncoder(text).state_dict())
    with pytest.raises(ValueError, match="gives 8 rows of 8, the transformer takes up to 8 of 16"):
        pack(tmp_path / "packed", source, text_encoder=tmp_path / "text")
    with pytest.raises(ValueError, match="none is no part of a model"):
        pack(tmp_path / "packed", source, transformer=tmp_path / "none")
    assert not (tmp_path / "packed").exists()


def test_a_vae_is_found_in_its_folder_or_in_a_model(source):
    assert find_vae(str(source / "vae")) == source / "vae"
    assert find_vae(str(source)) == source / "vae"
    assert find_vae("pocket") == EMBEDDED["pocket"] / "vae"
    with pytest.raises(ValueError, match="there is no model 'nowhere'"):
        find_vae("nowhere")


def test_a_full_disk_is_told_as_the_system_says_it(source, tmp_path, monkeypatch):
    def full(one, other):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(OSError, match="No space left on device") as refusal:
        pack(tmp_path / "packed", source)
    assert refusal.value.errno == errno.ENOSPC
    assert str(tmp_path / "packed" / "transformer") in refusal.value.filename
