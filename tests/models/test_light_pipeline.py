"""vae="light": the decoder beside a model, its part in hashes, and what is refused."""

import shutil

import pytest
import torch

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.vae.light import FOLDER, decoder_weights, lighter, save_light
from tests.models.tiny_pipeline import tiny_parts, write_tiny_folder

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = write_tiny_folder(tmp_path_factory.mktemp("light") / "model")
    save_light(lighter(tiny_parts()[1], 2), model / FOLDER, dtype=torch.float32)
    return model


@pytest.fixture(scope="module")
def light(folder) -> LongLivePipeline:
    return LongLivePipeline.from_pretrained(str(folder), device="cpu", vae="light")


def test_it_decodes_with_the_light_decoder_and_encodes_with_the_full_encoder(folder, light):
    full = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    own = decoder_weights(lighter(full.vae, 2))
    for name, tensor in light.vae.state_dict().items():
        assert_bitwise_equal(tensor, own.get(name, full.vae.state_dict().get(name)))
    assert light.runtime.to_dict()["vae"] == "light"
    assert not torch.equal(light(PROMPT, seconds=1).frames, full(PROMPT, seconds=1).frames)


def test_its_weights_are_in_the_fingerprint_and_in_that_of_the_full_one_are_not(folder, light):
    full = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    assert full.fingerprint == fingerprint(folder)
    assert light.fingerprint != full.fingerprint
    again = LongLivePipeline.from_pretrained(str(folder), device="cpu", vae="light")
    assert again.fingerprint == light.fingerprint
    with torch.no_grad():
        again.vae.conv2.weight.mul_(2)
    assert again.fingerprint != light.fingerprint


def test_a_snapshot_goes_on_with_the_same_decoder_alone(folder, light, tmp_path):
    whole = light(PROMPT, seconds=2, seed=3).frames
    with light.stream(PROMPT, seconds=2, seed=3) as stream:
        first = next(stream).frames
        stream.snapshot(tmp_path / "s.safetensors")
    rest = torch.cat([block.frames for block in light.resume(tmp_path / "s.safetensors")])
    assert_bitwise_equal(torch.cat([first, rest]), whole)
    full = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    with pytest.raises(ValueError, match="was made with model"):
        full.resume(tmp_path / "s.safetensors")


def test_what_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="vae='small' is no decoder of a model: it has full and"):
        RuntimeOptions(vae="small")
    bare = tmp_path / "model"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(FOLDER))
    with pytest.raises(ValueError, match="has no light decoder"):
        LongLivePipeline.from_pretrained(str(bare), device="cpu", vae="light")
