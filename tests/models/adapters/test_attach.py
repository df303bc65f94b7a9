"""Several adapters with weights on one model, plain or packed, merged and taken off exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.float8 import convert_linears as convert_to_float8
from longlive_core.nvfp4 import convert_linears as convert_to_nvfp4
from longlive_models.adapters import Adapter, attach, read_adapter
from tests.models.adapters.layouts import LINEARS, adapter, in_layout, product, tiny_model

ONE = adapter(seed=1)
TWO = adapter(seed=2, rank=2, alpha=1.0, names=LINEARS[1:4])
weights = st.floats(-3, 3, allow_nan=False)


def bits(model) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def assert_bits(model, before: dict[str, torch.Tensor]) -> None:
    now = model.state_dict()
    assert list(now) == list(before)
    for name, tensor in before.items():
        one, other = (
            x.view(torch.uint8) if x.is_floating_point() else x for x in (now[name], tensor)
        )
        assert torch.equal(one, other), name


@settings(max_examples=15)
@given(weights, weights, st.sampled_from([torch.float32, torch.bfloat16]))
def test_two_adapters_add_their_weighted_products_and_come_off_bit_for_bit(first, second, dtype):
    model = tiny_model(dtype=dtype)
    before = bits(model)
    attached = attach(model, [(ONE, first), (TWO, second)], dtype=torch.float32)
    assert set(attached.linears) == set(LINEARS)
    name = LINEARS[1]
    base, x = before[f"{name}.weight"].double(), torch.randn(4, 32, dtype=dtype)
    total = base + first * product(ONE, name) + second * product(TWO, name)
    want = x.double() @ total.T + before[f"{name}.bias"].double()
    close = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 16 * torch.finfo(dtype).eps}
    torch.testing.assert_close(model.get_submodule(name)(x).double(), want, **close)
    attached.merge()
    merged = model.get_submodule(name).base_layer.weight
    torch.testing.assert_close(merged.double(), total, rtol=torch.finfo(dtype).eps, atol=1e-6)
    attached.unmerge()
    attached.merge()
    attached.remove()
    assert_bits(model, before)


def test_fusing_leaves_plain_linears_with_the_sum():
    model, plain = tiny_model(), tiny_model()
    attach(model, [(ONE, 0.5)]).fuse()
    assert list(model.state_dict()) == list(plain.state_dict())
    for name in LINEARS:
        want = plain.get_submodule(name).weight.double() + 0.5 * product(ONE, name)
        torch.testing.assert_close(model.get_submodule(name).weight.double(), want)


@pytest.mark.parametrize("convert", [convert_to_nvfp4, convert_to_float8])
def test_packed_linears_keep_their_bits_and_get_the_adapter_beside_them(convert):
    model = tiny_model()
    convert(model, keep=())
    name, x = LINEARS[0], torch.randn(3, 32)
    before, want = bits(model), model.get_submodule(name)(x)
    attached = attach(model, [(ONE, 0.5), (TWO, 2.0)])
    attached.merge()
    attached.fuse()
    got = model.get_submodule(name)(x)
    added = 0.5 * x.double() @ product(ONE, name).T
    torch.testing.assert_close(got.double(), want.double() + added, rtol=1e-5, atol=1e-5)
    attached.remove()
    assert torch.equal(model.get_submodule(name)(x), want)
    if all(name in attached.linears for name in LINEARS):
        assert_bits(model, before)


def test_differences_are_added_with_the_weight_and_come_off():
    model = tiny_model()
    before = bits(model)
    tensors = in_layout(ONE, "lightx2v")
    tensors["blocks.0.self_attn.q.diff_b"] = torch.full((32,), 2.0)
    tensors["blocks.0.diff_m"] = torch.full((1, 6, 32), 4.0)
    one = read_adapter(tensors, model)
    attached = attach(model, [(one, 0.5)])
    layer = model.blocks[0].self_attn.q.base_layer
    torch.testing.assert_close(layer.bias, before["blocks.0.self_attn.q.bias"] + 1)
    torch.testing.assert_close(model.blocks[0].modulation, before["blocks.0.modulation"] + 2)
    attached.remove()
    assert_bits(model, before)


def test_two_adapters_may_change_one_parameter_which_is_then_what_it_was_first():
    model = tiny_model()
    before, name = bits(model), "blocks.1.self_attn.norm_q.weight"
    changes = [Adapter(matrices={}, differences={name: torch.full((32,), x)}) for x in (1.0, 3.0)]
    attached = attach(model, [(changes[0], 1.0), (changes[1], 0.5)])
    torch.testing.assert_close(model.get_parameter(name), before[name] + 2.5)
    attached.remove()
    assert_bits(model, before)


def test_a_difference_of_a_packed_weight_is_refused_and_nothing_is_changed():
    model = tiny_model()
    convert_to_nvfp4(model, keep=())
    before = bits(model)
    wrong = Adapter(
        matrices=ONE.matrices, differences={"blocks.0.self_attn.q.weight": torch.ones(32, 32)}
    )
    with pytest.raises(ValueError, match=r"which is packed here.*weights='bf16'"):
        attach(model, [(ONE, 1.0), (wrong, 1.0)])
    assert_bits(model, before)


def test_a_second_call_is_refused():
    model = tiny_model()
    attach(model, [(ONE, 1.0)])
    with pytest.raises(ValueError, match="has adapters already, as beside .*name all adapters at"):
        attach(model, [(TWO, 1.0)])
