"""Published weights: what is read, under which names, and what is refused."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from longlive_models.wan import WanTransformer, load_weights, published_keys, read_state_dict
from longlive_models.wan.checkpoint import WRAPPERS
from tests.models.wan.tiny import TINY, tiny_model


def weights() -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in tiny_model().state_dict().items()}


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(got[name], value), name


@given(st.lists(st.sampled_from(WRAPPERS), max_size=3), st.booleans())
def test_traces_of_wrappers_are_removed(wrappers, prefixed):
    key = "blocks.1.self_attn.q.weight"
    head, tail = "blocks.1.", "self_attn.q.weight"
    wrapped = ("model." if prefixed else "") + head + "".join(wrappers) + tail
    assert list(published_keys({wrapped: torch.zeros(1)})) == [key]


def test_two_models_in_one_checkpoint_are_refused():
    with pytest.raises(ValueError, match="two keys of the checkpoint become 'head.modulation'"):
        published_keys({"head.modulation": torch.zeros(1), "model.head.modulation": torch.zeros(1)})


@pytest.mark.parametrize("holder", [None, "generator", "generator_ema", "model"])
def test_pickles_of_every_published_layout_load(tmp_path, holder):
    state = {f"model._fsdp_wrapped_module.{name}": x for name, x in weights().items()}
    content = state if holder is None else {holder: state, "step": 3, "dtype": "bfloat16"}
    torch.save(content, tmp_path / "model.pt")
    assert_same(read_state_dict(tmp_path / "model.pt"), weights())


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    with open(tmp_path / "model.pt", "wb") as file:
        pickle.dump({"generator": WanTransformer}, file)
    with pytest.raises(ValueError, match="without running code"):
        read_state_dict(tmp_path / "model.pt")


def test_a_pickle_without_weights_is_refused(tmp_path):
    torch.save({"step": 3}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="holds no state dict.*under generator, generator_ema"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize("indexed", [True, False])
def test_a_folder_of_shards_is_one_state_dict(tmp_path, indexed):
    state = weights()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, tmp_path / file)
    if indexed:
        save_file({"left.over": torch.zeros(1)}, tmp_path / "c.safetensors")
        where = {name: file for file, held in parts.items() for name in held}
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": where}))
    assert_same(read_state_dict(tmp_path), state)


def test_a_folder_or_a_file_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lacks any \*.safetensors"):
        read_state_dict(tmp_path)
    with pytest.raises(ValueError, match="ends in neither"):
        read_state_dict(tmp_path / "weights.bin")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_load_into_the_models_own_dtype(tmp_path, dtype):
    save_file(weights(), tmp_path / "model.safetensors")
    model = WanTransformer(TINY).to(dtype)
    load_weights(model, tmp_path / "model.safetensors")
    assert_same(model.state_dict(), {name: x.to(dtype) for name, x in weights().items()})


def test_every_kind_of_misfit_is_listed():
    state = weights()
    del state["head.modulation"], state["blocks.0.modulation"]
    state["blocks.9.modulation"] = torch.zeros(1)
    state["patch_embedding.bias"] = torch.zeros(7)
    with pytest.raises(ValueError) as caught:
        load_weights(WanTransformer(TINY), state)
    message = str(caught.value)
    assert "2 layers of width 24" in message
    assert "wrong shapes: patch_embedding.bias (7,) for (24,)" in message
    assert "missing: blocks.0.modulation, head.modulation" in message
    assert "unexpected: blocks.9.modulation" in message


def test_a_partial_load_keeps_the_rest():
    model, state = WanTransformer(TINY), weights()
    kept = model.head.modulation.clone()
    del state["head.modulation"]
    load_weights(model, {**state, "ema_step": torch.zeros(1)}, strict=False)
    assert torch.equal(model.head.modulation, kept)
    assert torch.equal(model.blocks[1].modulation, state["blocks.1.modulation"])


def test_packed_weights_are_refused_here():
    state = {"model.blocks.0.ffn.0.quantized_weight_values": torch.zeros(1)}
    with pytest.raises(ValueError, match="holds packed weights.*take the bf16 file"):
        load_weights(WanTransformer(TINY), state)
