"""Published keys and shapes, reading files, and weights that do not fit."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longlive_models.vae import POCKET_VAE, WAN22_VAE, WanVAE, load_vae, load_weights
from longlive_models.vae.checkpoint import read_state_dict
from tests.models.vae.tiny import GROWING, SAME, build, difference, random_latents

GOLDEN = Path(__file__).parents[2] / "golden"


def test_keys_and_shapes_are_the_published_ones():
    published = json.loads((GOLDEN / "c12_state_dict_vae.json").read_text())
    with torch.device("meta"):
        vae = WanVAE(WAN22_VAE)
    assert {name: list(tensor.shape) for name, tensor in vae.state_dict().items()} == {
        name: entry["shape"] for name, entry in published["keys"].items()
    }
    assert sum(p.numel() for p in vae.parameters()) == published["num_params"]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_file_gives_the_same_vae(tmp_path, suffix):
    vae, path = build(GROWING), tmp_path / f"Wan2.2_VAE{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(vae.state_dict(), path)
    loaded = load_vae(path, config=GROWING, dtype=torch.float64)
    latents = random_latents(GROWING, 3)
    with torch.no_grad():
        assert difference(loaded.decode(latents), vae.decode(latents)) < 1e-6  # float32 statistics
    assert not loaded.training


def test_weights_keep_the_models_dtype_or_take_the_one_asked_for():
    state = build(SAME).state_dict()
    vae = WanVAE(SAME)
    load_weights(vae, state)
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    loaded = load_vae(state, config=SAME, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert loaded.latent_std.dtype == torch.float32


def test_weights_of_another_size_are_refused():
    with pytest.raises(
        ValueError, match="encoder 32.*missing: .*unexpected: .*wrong shapes: .*for"
    ):
        load_vae(build(GROWING).state_dict(), config=POCKET_VAE)


def test_missing_and_unexpected_keys_are_named():
    state = build(SAME).state_dict()
    state["decoder.head.3.weight"] = state.pop("decoder.head.2.weight")
    vae = build(SAME)
    message = "missing: decoder.head.2.weight; unexpected: decoder.head.3.weight"
    with pytest.raises(ValueError, match=message):
        load_weights(vae, state)


class Stranger:
    """What a pickle could run code with."""


def test_a_pickle_that_could_run_code_is_refused(tmp_path):
    path = tmp_path / "vae.pth"
    torch.save({"weight": Stranger()}, path)
    with pytest.raises(ValueError, match="without running code that it may hold"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps({"weight": Stranger()}))
    with pytest.raises(ValueError, match="cannot read .* without running code"):
        read_state_dict(path)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "vae.pt"
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no state dict: expected tensors by name"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="neither .safetensors, .pt nor .pth"):
        read_state_dict(tmp_path / "vae.ckpt")
