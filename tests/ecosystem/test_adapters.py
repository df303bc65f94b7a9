"""PEFT's adapters beside packed linears: after them and before, their gradients, no merging."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from longlive_core.frozen_linear import FrozenLinear
from tests.ecosystem.foreign import MODELS, Foreign, drawn
from tests.ecosystem.formats import FORMATS, PACKED


def config(foreign: Foreign) -> LoraConfig:
    return LoraConfig(r=4, target_modules=list(foreign.adapted), init_lora_weights=False)


def adapted(foreign: Foreign, model: nn.Module) -> nn.Module:
    """The model with adapters that are alike in every run."""
    torch.manual_seed(7)
    if hasattr(model, "register_to_config"):  # a model of Diffusers
        model.add_adapter(config(foreign))
    else:
        model = get_peft_model(model, config(foreign))
    matrices = {name: p for name, p in model.named_parameters() if "lora_" in name}
    for number, name in enumerate(sorted(matrices)):
        matrices[name].data.copy_(drawn(*matrices[name].shape, seed=number) / 10)
    return model


def result(foreign: Foreign, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """What a model answers, and the gradients of its adapters."""
    answer = foreign.run(model)
    answer.square().sum().backward()
    return answer.detach(), {n: p.grad for n, p in model.named_parameters() if "lora_" in n}


@pytest.mark.parametrize("convert", PACKED.values(), ids=PACKED)
def test_both_orders_give_the_same_answer_and_gradients(foreign, plain, convert):
    first, then = deepcopy(plain), deepcopy(plain)
    convert(first)
    first = adapted(foreign, first)
    then = adapted(foreign, then)
    report = convert(then)
    adapters = [name for name, _ in then.named_modules() if name.endswith(".lora_A")]
    beside = {name.replace("lora_A", "base_layer") for name in adapters}
    assert beside <= {*report.swapped, *report.kept} and beside & set(report.swapped)
    (want, wanted), (got, found) = result(foreign, first), result(foreign, then)
    assert torch.equal(got, want)
    assert wanted and wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert gradient.abs().sum() > 0
        assert torch.equal(found[name], gradient), name


def test_adapters_do_what_they_do_beside_the_decoded_linears(foreign, plain):
    packed, decoded = deepcopy(plain), deepcopy(plain)
    FORMATS["w4a16"](packed)
    FORMATS["w4a16"](decoded)
    for name, module in list(decoded.named_modules()):
        if isinstance(module, FrozenLinear):
            holder, _, last = name.rpartition(".")
            setattr(decoded.get_submodule(holder), last, module.to_linear(torch.float32))
    (got, found), (want, wanted) = (result(foreign, adapted(foreign, m)) for m in (packed, decoded))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * scale)


def test_adapters_are_of_the_type_and_size_of_their_layer(plain_models):
    model = deepcopy(plain_models["Wan"]).to(torch.bfloat16)
    FORMATS["w4a16"](model)
    layer = model.blocks[0].attn1.to_q
    assert (layer.weight.dtype, layer.weight.numel()) == (torch.bfloat16, 64 * 64)
    model.add_adapter(config(MODELS["Wan"]))
    layer = model.blocks[0].attn1.to_q
    assert isinstance(layer.base_layer, FrozenLinear)
    assert (layer.in_features, layer.out_features) == (64, 64)


@pytest.mark.parametrize("convert", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("safely", [False, True])
def test_merging_is_refused_in_a_sentence_and_changes_nothing(plain_models, convert, safely):
    foreign, model = MODELS["Wan"], deepcopy(plain_models["Wan"])
    convert(model)
    model = get_peft_model(model, config(foreign))
    before = foreign.run(model)
    with pytest.raises(ValueError, match="cannot be written to.*decode_linears"):
        model.merge_adapter(safe_merge=safely)
    assert torch.equal(foreign.run(model), before)


def test_an_adapter_that_writes_into_the_weight_is_refused(plain_models):
    model = deepcopy(plain_models["Wan"])
    FORMATS["w4a16"](model)
    with pytest.raises(ValueError, match="cannot be written to"):
        model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights="pissa"))


def test_an_adapter_of_a_plain_model_loads_beside_packed_linears(plain_models, tmp_path):
    """As published adapters do: Diffusers makes PEFT's config of the file itself."""
    foreign = MODELS["Wan"]
    trained = adapted(foreign, deepcopy(plain_models["Wan"]))
    trained.save_lora_adapter(tmp_path, adapter_name="default")
    packed = deepcopy(plain_models["Wan"])
    FORMATS["w4a16"](packed)
    without = foreign.run(packed)
    packed.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    FORMATS["w4a16"](trained)
    torch.testing.assert_close(foreign.run(packed), foreign.run(trained))
    assert (foreign.run(packed) - without).abs().max() > 1e-2
