"""Names in both layouts at full size, and those that the original's model has (golden group 12)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from longlive_core.testing import assert_bitwise_equal
from longlive_models.checkpoints.folder import unfilled
from longlive_models.layouts.key_maps import to_diffusers, to_published
from longlive_models.layouts.part_files import open_part
from longlive_models.layouts.recognize import recognize
from longlive_models.layouts.sizes import transformer_config, umt5_config, vae_config
from longlive_models.layouts.wrappers import unwrapped
from longlive_models.text import UMT5_XXL
from longlive_models.text.checkpoint import transformers_key
from longlive_models.vae import WAN22_VAE, WanVAE
from longlive_models.wan import WAN_5B, WanTransformer
from tests.models.foreign_files import text_state, transformer_state

GOLDEN = Path(__file__).parents[2] / "golden"


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def ours() -> dict[str, dict[str, tuple[int, ...]]]:
    with unfilled():
        return {"transformer": shapes(WanTransformer(WAN_5B)), "vae": shapes(WanVAE(WAN22_VAE))}


@pytest.fixture(scope="module")
def theirs() -> dict[str, dict[str, tuple[int, ...]]]:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_attention_heads=24,
            in_channels=48,
            out_channels=48,
            ffn_dim=14336,
            num_layers=30,
        )
        vae = AutoencoderKLWan(
            base_dim=160,
            decoder_base_dim=256,
            z_dim=48,
            latents_mean=[0.0] * 48,
            latents_std=[1.0] * 48,
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
        )
    return {"transformer": shapes(transformer), "vae": shapes(vae)}


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_full_size_names_are_those_of_diffusers_both_ways(part, ours, theirs):
    assert {to_diffusers(part, name): shape for name, shape in ours[part].items()} == theirs[part]
    back = to_published(part, theirs[part])
    assert {back[name]: shape for name, shape in theirs[part].items()} == ours[part]


def test_a_text_encoders_names_are_those_of_transformers_both_ways():
    names = list(text_state())
    foreign = [to_diffusers("text_encoder", name) for name in names]
    assert all(foreign)
    assert list(to_published("text_encoder", foreign).values()) == names


def test_the_two_tables_of_a_text_encoders_names_agree():
    """The other one fills transformers' own model, whose features the golden vectors have."""
    for name in text_state():
        assert to_diffusers("text_encoder", name) == transformers_key(name)


@pytest.mark.parametrize("kept", [("shared",), ("encoder.embed_tokens",), ("both",)])
def test_an_embedding_under_two_names_is_read_under_any_of_them(kept, tmp_path):
    """Transformers has one tensor under two names; which of them a file keeps is its writer's."""
    state = {str(to_diffusers("text_encoder", name)): one for name, one in text_state().items()}
    table = state.pop("shared.weight")
    names = ("shared", "encoder.embed_tokens") if kept == ("both",) else kept
    state |= {f"{name}.weight": table.clone() for name in names}
    save_file(state, tmp_path / "text.safetensors")
    part = open_part(tmp_path / "text.safetensors", "text_encoder")
    assert part.shapes.keys() == text_state().keys()
    assert_bitwise_equal(part.plain["token_embedding.weight"].read(), table)


def test_names_that_no_part_has_are_not_translated():
    assert to_diffusers("transformer", "img_emb.proj.0.weight") is None
    assert to_published("vae", ["encoder.strange.weight"]) == {"encoder.strange.weight": None}


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("c12_state_dict_dit_causal", "transformer"),
        ("c12_state_dict_vae", "vae"),
        ("c12_state_dict_umt5_encoder", "text_encoder"),
    ],
)
def test_sizes_follow_from_the_shapes_of_the_full_model(case, part):
    file = GOLDEN / f"{case}.json"
    if not file.is_file():
        pytest.skip(f"{case} is not in the shipped part of the golden vectors")
    keys = json.loads(file.read_text())["keys"]
    found = {name: tuple(what["shape"]) for name, what in keys.items()}
    assert recognize(unwrapped(found)).part == part
    read = {name: found[full] for name, full in unwrapped(found).items()}
    want = {"transformer": WAN_5B, "vae": WAN22_VAE, "text_encoder": UMT5_XXL}[part]
    config = {
        "transformer": lambda: transformer_config(read, None, case),
        "vae": lambda: vae_config(read, None, case),
        "text_encoder": lambda: umt5_config(read, None, case),
    }[part]()
    assert config == want


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_full_sizes_follow_from_shapes(part, ours):
    reader = {"transformer": transformer_config, "vae": vae_config}[part]
    want = {"transformer": WAN_5B, "vae": WAN22_VAE}[part]
    assert reader(ours[part], None, "the model") == want
    cut = {
        name: s for name, s in ours[part].items() if "patch_emb" not in name and "conv2" not in name
    }
    with pytest.raises(ValueError, match="cannot be told from the shapes in the model: it lacks"):
        reader(cut, None, "the model")


@pytest.mark.parametrize(
    "wrap",
    [
        "model.{}",
        "generator.model.{}",
        "model.diffusion_model.{}",
        "module.{}",
        "_orig_mod.{}",
        "model._fsdp_wrapped_module.{}",
        "ema.model._orig_mod._fsdp_wrapped_module.{}",
    ],
)
def test_what_programs_put_before_names_is_taken_off(wrap, ours):
    names = list(ours["transformer"])
    assert unwrapped(wrap.format(name) for name in names) == {n: wrap.format(n) for n in names}


def test_of_several_models_in_a_training_checkpoint_the_trained_one_is_read(tmp_path):
    """What stands under "generator", before its average, whatever their order in the file."""
    trained = {f"model.{k}": v for k, v in transformer_state().items()}
    average = {name: 2 * value for name, value in trained.items()}
    for content in (
        {"generator_ema": average, "generator": trained},
        {"generator": trained, "critic": average, "generator_ema": average},
    ):
        torch.save(content, tmp_path / "model.pt")
        part = open_part(tmp_path / "model.pt", "transformer")
        for name, value in transformer_state().items():
            assert_bitwise_equal(part.plain[name].read(), value)
