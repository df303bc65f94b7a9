"""Adapters of every layout are read as what they are, and what is not understood is refused."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from longlive_models.adapters import Adapter, read_adapter
from longlive_models.lora_config import LoRAConfig
from tests.models.adapters.layouts import (
    LAYOUTS,
    LINEARS,
    adapter,
    in_layout,
    product,
    tiny_model,
)
from tests.models.foreign_files import text_state, transformer_state, vae_state

MODEL = tiny_model()


def assert_same(got: Adapter, want: Adapter) -> None:
    assert set(got.matrices) == set(want.matrices)
    for name in want.matrices:
        torch.testing.assert_close(product(got, name), product(want, name), rtol=1e-6, atol=1e-5)


@settings(max_examples=30)
@given(
    st.sampled_from(LAYOUTS),
    st.integers(1, 5),
    st.floats(-50, 50, allow_nan=False).filter(lambda x: abs(x) > 1e-3),
    st.sets(st.sampled_from(LINEARS), min_size=1),
    st.integers(0, 99),
)
def test_every_layout_is_read_with_its_alphas(layout, rank, alpha, names, seed):
    want = adapter(rank=rank, alpha=alpha, seed=seed, names=tuple(sorted(names)))
    got = read_adapter(in_layout(want, layout), MODEL)
    assert_same(got, want)
    assert got.layout == {"comfyui down": "comfyui"}.get(layout, layout)


def test_pairs_may_have_ranks_and_alphas_of_their_own():
    want = adapter(rank=3, alpha=6.0, names=LINEARS[:2])
    other = adapter(rank=5, alpha=1.0, names=LINEARS[2:])
    both = Adapter(matrices={**want.matrices, **other.matrices})
    got = read_adapter(in_layout(both, "kohya"), MODEL)
    assert_same(got, both)
    assert got.ranks == (3, 5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_are_read(suffix, tmp_path):
    want, path = adapter(), tmp_path / f"a{suffix}"
    tensors = in_layout(want, "kohya")
    if suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    assert_same(read_adapter(path, MODEL), want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_writes_is_read_with_its_scale(rslora, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle, and not installed")
    targets = ["self_attn.q", "ffn.0"]
    made = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, use_rslora=rslora)
    theirs = peft.get_peft_model(tiny_model(), made)
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    theirs.save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "adapter_model.safetensors"):
        got = read_adapter(source, MODEL)
        name = "blocks.1.self_attn.q"
        layer = theirs.base_model.model.get_submodule(name)
        torch.testing.assert_close(product(got, name).float(), layer.get_delta_weight("default"))


def test_the_config_that_diffusers_puts_into_a_header_is_honoured(tmp_path):
    want = adapter(rank=3, alpha=6.0)
    tensors = in_layout(want, "diffusers")
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = tensors[name] / 2  # as PEFT has it, without the scale of 6 / 3
    values = LoRAConfig(rank=3, alpha=6.0, targets=("to_q",)).to_peft()
    header = {f"transformer.{name}": value for name, value in values.items()}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(header)})
    assert_same(read_adapter(path, MODEL), want)


def test_differences_of_lightx2v_are_read_for_weights_biases_and_modulations():
    tensors = in_layout(adapter(), "lightx2v")
    tensors["blocks.0.self_attn.q.diff_b"] = torch.ones(32)
    tensors["blocks.0.norm3.diff"] = torch.ones(32)
    tensors["blocks.0.diff_m"] = torch.ones(1, 6, 32)
    for prefix in ("", "diffusion_model."):
        got = read_adapter({prefix + name: x for name, x in tensors.items()}, MODEL)
        assert got.layout == "lightx2v"
        assert set(got.differences) == {
            "blocks.0.self_attn.q.bias",
            "blocks.0.norm3.weight",
            "blocks.0.modulation",
        }


def change(**changes):
    tensors = in_layout(adapter(), "comfyui")
    return {name: x for name, x in (tensors | changes).items() if x is not None}


KEY = "diffusion_model.blocks.0.self_attn.q"
NONSENSE = {
    "mixed layouts": (
        {**in_layout(adapter(), "comfyui"), **in_layout(adapter(), "kohya")},
        "it mixes two layouts, as diffusion_model.* and lora_unet_.* show",
    ),
    "mixed names": (
        {**in_layout(adapter(), "comfyui"), **in_layout(adapter(), "comfyui down")},
        "it mixes lora_down and lora_up with lora_A and lora_B",
    ),
    "kohya's beginning": (
        {"lora_unet_head_head.lora_A.weight": torch.ones(2, 32)},
        "begins as kohya's keys do and ends as PEFT's",
    ),
    "a half": (change(**{f"{KEY}.lora_B.weight": None}), "lacks its second matrix"),
    "two ranks": (
        change(**{f"{KEY}.lora_B.weight": torch.ones(32, 4)}),
        r"self_attn.q have the ranks 3 and 4: they are halves of two adapters",
    ),
    "another width": (
        change(**{f"{KEY}.lora_A.weight": torch.ones(3, 40)}),
        r"\[32, 3\] x \[3, 40\] for a weight of \[32, 32\].*a model of another size",
    ),
    "more blocks": (
        {name.replace("blocks.0", "blocks.7"): x for name, x in change().items()},
        "for 1 linears that this WanTransformer lacks .*blocks.7.self_attn.q.* of another model",
    ),
    "a large alpha": (change(**{f"{KEY}.alpha": torch.tensor(1e7)}), "alpha is at most 1000000"),
    "a huge alpha": (change(**{f"{KEY}.alpha": torch.tensor(1e30)}), "q.alpha .* holds 1e.30"),
    "two alphas": (change(**{f"{KEY}.alpha": torch.ones(2)}), "is a single number, got a tensor"),
    "NaN": (change(**{f"{KEY}.alpha": torch.tensor(float("nan"))}), "holds nan"),
    "DoRA": (
        change(**{f"{KEY}.dora_scale": torch.ones(32)}),
        "holds .*dora_scale, which is neither",
    ),
    "LoKr": ({f"{KEY}.lokr_w1": torch.ones(2, 2)}, "which is neither of the two matrices"),
    "a convolution": (
        {
            "diffusion_model.patch_embedding.lora_A.weight": torch.ones(2, 4, 1, 2, 2),
            "diffusion_model.patch_embedding.lora_B.weight": torch.ones(32, 2, 1, 1, 1),
        },
        "those of convolutions and packed ones are not read",
    ),
    "whole numbers": (
        change(**{f"{KEY}.lora_A.weight": torch.ones(3, 32, dtype=torch.int8)}),
        "has matrices of floating-point numbers",
    ),
    "a text encoder": ({"lora_te_x.lora_down.weight": torch.ones(2, 2)}, "keys of a text encoder"),
    "a difference that does not fit": (
        change(**{"diffusion_model.blocks.0.norm3.diff": torch.ones(31)}),
        r"difference of blocks.0.norm3.weight has the shape \[31\], and the parameter \[32\]",
    ),
    "a difference of nothing": (
        change(**{"diffusion_model.blocks.0.img_emb.diff": torch.ones(31)}),
        "it changes blocks.0.img_emb.weight, which this WanTransformer lacks",
    ),
    "one module twice": (
        {
            **{
                f"transformer.blocks.0.attn1.to_q.lora_{p}.weight": torch.ones(32, 32) for p in "AB"
            },
            **{
                f"transformer.blocks.0.self_attn.q.lora_{p}.weight": torch.ones(32, 32)
                for p in "AB"
            },
        },
        "are the same module of the model, under the names of two layouts",
    ),
    "nothing": ({}, "it holds no tensors"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_what_is_not_understood_is_refused_in_a_sentence(case):
    tensors, message = NONSENSE[case]
    with pytest.raises(ValueError, match=message):
        read_adapter(tensors, MODEL)


def test_kohya_names_that_two_modules_share_are_refused():
    model = torch.nn.Module()
    model.a_b = torch.nn.Linear(2, 2)
    model.a = torch.nn.Module()
    model.a.b = torch.nn.Linear(2, 2)
    tensors = {
        "lora_unet_a_b.lora_down.weight": torch.ones(1, 2),
        "lora_unet_a_b.lora_up.weight": torch.ones(2, 1),
    }
    with pytest.raises(ValueError, match=r"a_b may be a(_|.)b or a(_|.)b: kohya's keys have _"):
        read_adapter(tensors, model)


def test_a_config_of_another_rank_is_refused(tmp_path):
    tensors = in_layout(adapter(rank=3), "peft")
    with pytest.raises(ValueError, match="have? the rank 3, and the adapter's config says 8"):
        read_adapter(tensors, MODEL, config=LoRAConfig(rank=8))
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="is no adapter's folder: it holds no adapter_model"):
        read_adapter(tmp_path / "x", MODEL)
    with pytest.raises(ValueError, match="there is no adapter"):
        read_adapter(tmp_path / "y.safetensors", MODEL)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda: {"generator": {f"model.{k}": v for k, v in transformer_state().items()}}, "tran"),
        (vae_state, "VAE"),
        (text_state, "text encoder"),
    ],
)
def test_a_part_of_a_model_in_the_place_of_an_adapter_is_told(content, what, tmp_path):
    torch.save(content(), tmp_path / "adapter.pt")
    message = rf"adapter.pt: it holds the {what}.*, and an adapter \(LoRA\) is expected there"
    with pytest.raises(ValueError, match=message):
        read_adapter(tmp_path / "adapter.pt", torch.nn.Linear(2, 2))
