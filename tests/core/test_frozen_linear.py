"""A packed linear is an ``nn.Linear`` whose weight answers, and cannot be written to."""

import copy

import pytest
import torch
from torch import nn

from longlive_core.float8 import Float8Linear
from longlive_core.nvfp4 import NVFP4Linear, NVFP4Tensor

KINDS = [NVFP4Linear, Float8Linear]


def layer(kind, dtype=torch.float32):
    return kind.from_linear(nn.Linear(32, 64, dtype=dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_answers_as_the_plain_one_would(kind, dtype):
    linear = nn.Linear(32, 64, dtype=dtype)
    weight = kind.from_linear(linear).weight
    plain = kind.from_linear(linear).to_linear(dtype).weight
    for name in ("dtype", "device", "ndim"):
        assert getattr(weight, name) == getattr(plain, name)
    assert tuple(weight.shape) == weight.size() == plain.shape
    assert (weight.size(0), weight.numel(), weight.element_size()) == (
        plain.size(0),
        plain.numel(),
        plain.element_size(),
    )
    assert torch.equal(weight.data, plain.data)
    assert torch.equal(weight.to(torch.float64), weight.float().double())
    assert not weight.requires_grad and weight.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_cannot_be_written_to(kind):
    made = layer(kind)
    before = made.weight.data
    with pytest.raises(ValueError, match="cannot be written to.*decode_linears"):
        made.weight.data += 1.0
    made.weight.data.zero_()  # values that were decoded are no part of the layer
    assert torch.equal(made.weight.data, before)
    with pytest.raises(ValueError, match="no weight that could be drawn"):
        made.reset_parameters()


@pytest.mark.parametrize("kind", KINDS)
def test_the_working_type_follows_the_model_and_the_bits_do_not(kind):
    made = layer(kind)
    bits = {name: tensor.clone() for name, tensor in made.named_buffers()}
    moved = copy.deepcopy(made).to(torch.bfloat16)
    assert (made.weight.dtype, moved.weight.dtype) == (torch.float32, torch.bfloat16)
    assert moved.bias.dtype == torch.bfloat16
    assert all(torch.equal(tensor, bits[name]) for name, tensor in moved.named_buffers())
    assert moved.double().weight.data.dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_linear_without_a_parameter_for_its_weight(kind):
    made = layer(kind)
    assert isinstance(made, nn.Linear)
    assert [name for name, _ in made.named_parameters()] == ["bias"]
    assert (made.in_features, made.out_features) == (32, 64)
    assert "weight" not in made.state_dict()


def test_the_bits_of_a_weight_move_without_being_decoded():
    assert isinstance(layer(NVFP4Linear).weight.to("cpu"), NVFP4Tensor)
    assert isinstance(layer(Float8Linear).weight.to("cpu"), torch.Tensor)
