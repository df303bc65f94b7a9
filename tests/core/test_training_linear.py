"""What training linears of every format share: a plain linear's parameters, and their config."""

import pytest
import torch
from torch import nn

from longlive_core.float8 import Float8TrainingConfig, Float8TrainingLinear
from longlive_core.nvfp4 import NVFP4TrainingLinear, TrainingConfig

KINDS = [(Float8TrainingLinear, Float8TrainingConfig), (NVFP4TrainingLinear, TrainingConfig)]


@pytest.mark.parametrize(("layer", "config"), KINDS)
def test_a_layer_trains_the_parameters_of_the_linear_that_it_is_made_of(layer, config):
    linear, reduce = nn.Linear(32, 16), torch.clone
    made = layer.from_linear(linear, config(forward=False), reduce_amax=reduce)
    assert type(made) is layer
    assert made.weight is linear.weight and made.bias is linear.bias
    assert (made.config, made.reduce_amax) == (config(forward=False), reduce)
    assert layer.from_linear(nn.Linear(32, 16, bias=False)).bias is None
    assert layer(32, 16).config == config()


@pytest.mark.parametrize(("layer", "config"), KINDS)
def test_a_layer_says_which_products_are_rounded(layer, config):
    some = layer(32, 16, config=config(input_gradient=False))
    assert repr(some).endswith(f"in {layer.numbers}: forward, weight_gradient)")
    names = ("forward", "input_gradient", "weight_gradient")
    none = layer(32, 16, config=config(**dict.fromkeys(names, False)))
    assert repr(none).endswith(f"in {layer.numbers}: nothing)")


@pytest.mark.parametrize(("layer", "config"), KINDS)
def test_the_config_of_another_format_is_refused(layer, config):
    other = next(found() for _, found in KINDS if found is not config)
    message = f"{layer.__name__}'s config is a {config.__name__}, got .*which products are rounded"
    with pytest.raises(ValueError, match=message):
        layer(32, 16, config=other)
    with pytest.raises(ValueError, match=message):
        layer.from_linear(nn.Linear(32, 16), other)
