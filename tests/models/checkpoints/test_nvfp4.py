"""Packed model folders and checkpoints: written, loaded, imported, exported, refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from longlive_core.nvfp4 import (
    CONVENTIONS,
    LinearConfig,
    NVFP4Linear,
    QuantizeConfig,
    ScaleRule,
    dequantize,
    quantize,
)
from longlive_models.checkpoints.folder import fingerprint, load_part, unfilled
from longlive_models.checkpoints.nvfp4 import (
    PackedConfig,
    export_state,
    import_state,
    load_packed,
    packed_modules,
    packed_state,
    read_published,
    read_weight,
    split_quantization,
    write_published,
)
from longlive_models.checkpoints.nvfp4_packing import pack_model_folder, plan_packing
from longlive_models.wan import WanConfig, WanTransformer
from tests.cli.tiny_model import write_tiny_model

MSE = PackedConfig(weight=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))


class Small(nn.Module):
    """Two linears that are packed and one that is not."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(32, 48), nn.Linear(48, 32, bias=False)])
        self.head = nn.Linear(32, 16)

    def forward(self, x):
        return self.head(self.blocks[1](self.blocks[0](x)))


def packed(model: nn.Module, config: PackedConfig = MSE) -> dict[str, torch.Tensor]:
    """The model's state dict with packed blocks."""
    state = dict(model.state_dict())
    for name in ("blocks.0", "blocks.1"):
        weight = quantize(state.pop(f"{name}.weight"), config.weight)
        state |= packed_state(name, weight)
    return state


def decoded(model: nn.Module, config: PackedConfig = MSE) -> nn.Module:
    """The model with the values that packing leaves."""
    for linear in model.blocks:
        linear.weight.data = dequantize(quantize(linear.weight.data, config.weight))
    return model


def test_a_packed_weight_is_read_back():
    weight = quantize(torch.randn(32, 48), QuantizeConfig(block=(16, 16)))
    state = packed_state("a.b", weight)
    assert all(not tensor.is_floating_point() for tensor in state.values())
    back = read_weight("a.b", state)
    assert (back.config, back.shape) == (weight.config, weight.shape)
    assert torch.equal(dequantize(back), dequantize(weight))
    assert packed_modules(state) == ("a.b",)


@pytest.mark.parametrize("meta", [True, False])
def test_loading_gives_the_packed_values(meta):
    source = Small()
    state, x = packed(source), torch.randn(3, 32)
    if meta:
        with unfilled():
            model = Small()
    else:
        model = Small()
    report = load_packed(model, state, MSE)
    assert report.swapped == ("blocks.0", "blocks.1")
    assert report.kept == {"head": "its weight is not packed"}
    assert all(isinstance(linear, NVFP4Linear) for linear in model.blocks)
    torch.testing.assert_close(model(x), decoded(source)(x))


def test_how_it_runs_is_asked_for():
    state = packed(Small())
    model = Small()
    load_packed(model, state, MSE, run=LinearConfig(activation=QuantizeConfig(), strict=True))
    assert model.blocks[0].config.activation == QuantizeConfig()
    assert model.blocks[0].config.strict
    assert model.blocks[0].config.weight == MSE.weight


def test_decoding_gives_plain_linears():
    source, model, x = Small(), Small(), torch.randn(3, 32)
    load_packed(model, packed(source), MSE, decode=torch.float32)
    assert type(model.blocks[0]) is nn.Linear
    torch.testing.assert_close(model(x), decoded(source)(x))


def test_each_weight_brings_its_own_rule():
    source, model = Small(), Small()
    other = QuantizeConfig(rule=ScaleRule.AMAX_4, block=(16, 16))
    state = packed(source) | packed_state("blocks.1", quantize(source.blocks[1].weight.data, other))
    load_packed(model, state, MSE)
    assert model.blocks[0].config.weight == MSE.weight
    assert model.blocks[1].config.weight == other


def test_weights_of_another_model_are_refused():
    state = packed(Small())
    with pytest.raises(ValueError, match=r"packed weight for x, which is no linear of this Small"):
        load_packed(Small(), state | packed_state("x", quantize(torch.ones(16, 16))), MSE)
    wrong = {name: tensor for name, tensor in state.items() if name != "head.bias"}
    with pytest.raises(ValueError, match="the folder .*missing: head.bias"):
        load_packed(Small(), wrong, MSE, source="the folder")
    wide = state | packed_state("blocks.0", quantize(torch.ones(48, 64)))
    with pytest.raises(ValueError, match="wrong shapes: blocks.0.weight_codes"):
        load_packed(Small(), wide, MSE)


def test_a_config_goes_through_json_and_unknown_ones_are_refused():
    config = replace(MSE, activation=QuantizeConfig())
    values = json.loads(json.dumps({"dim": 3, "quantization_config": config.to_dict()}))
    assert split_quantization(values) == ({"dim": 3}, config)
    assert split_quantization({"dim": 3}) == ({"dim": 3}, None)
    with pytest.raises(ValueError, match="quant_method='modelopt'.*import_state"):
        PackedConfig.from_dict({"quant_method": "modelopt"})
    with pytest.raises(ValueError, match="no key 'wieght'; did you mean 'weight'"):
        PackedConfig.from_dict({**MSE.to_dict(), "wieght": 1})


FOREIGN = [name for name in CONVENTIONS if name not in ("transformer_engine", "gguf")]


@pytest.mark.parametrize("name", FOREIGN)
def test_state_dicts_of_other_libraries_go_round(name, tmp_path):
    state = packed(Small())
    swizzled = True if name == "torchao" else None
    foreign = export_state(state, name, swizzled=swizzled)
    assert not any("weight_codes" in key for key in foreign)
    save_file(foreign, tmp_path / "foreign.safetensors")
    foreign = load_file(tmp_path / "foreign.safetensors")
    back = import_state(foreign, config=MSE.weight, swizzled=swizzled)
    assert set(back) == set(state)
    for module in packed_modules(state):
        torch.testing.assert_close(
            dequantize(read_weight(module, back)),
            dequantize(read_weight(module, state)),
            rtol=4e-7 if name == "mlx" else 2e-7,
            atol=0,
        )
    assert torch.equal(back["head.weight"], state["head.weight"])


def test_names_in_files_are_the_libraries_own():
    state = packed(Small())
    names = {
        name: set(export_state(state, name, swizzled=None)) for name in ("longlive", "modelopt")
    }
    assert "blocks.0.quantized_weight_scale_factors" in names["longlive"]
    assert "blocks.0.weight_scale_2" in names["modelopt"]
    torchao = export_state(state, "torchao", swizzled=False)
    assert "blocks.0._weight_per_tensor_scale" in torchao


def test_what_torchao_flattens_is_read():
    tensors = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor", reason="no torchao")
    files = pytest.importorskip(
        "torchao.prototype.safetensors.safetensors_support", reason="no torchao"
    )
    x = torch.randn(48, 32)
    scale = tensors.per_tensor_amax_to_scale(x.abs().amax())
    made = tensors.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale, is_swizzled_scales=True)
    weight = nn.Parameter(made, requires_grad=False)
    flat, _ = files.flatten_tensor_state_dict({"a.weight": weight, "a.bias": torch.ones(48)})
    state = import_state(flat, swizzled=True)
    got = dequantize(read_weight("a", state))
    torch.testing.assert_close(got, made.dequantize(torch.float32))
    assert torch.equal(state["a.bias"], torch.ones(48))


def test_scales_of_activations_are_left_out_and_the_rest_stays():
    foreign = export_state(packed(Small()), "modelopt") | {"blocks.0.input_scale": torch.ones(())}
    assert "blocks.0.input_scale" not in import_state(foreign)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"a.weight": torch.ones(2)}, "holds no packed weight"),
        (lambda state: state | {"head.weight_scale": torch.ones(1)}, "fit no convention"),
        (
            lambda state: (
                state
                | {
                    "blocks.0.weight_packed": state["blocks.0.weight"],
                    "blocks.0.weight_global_scale": torch.ones(1),
                }
            ),
            "fit modelopt and compressed_tensors: which one is meant",
        ),
    ],
)
def test_state_dicts_that_are_unclear_are_refused(change, message):
    state = export_state(packed(Small()), "modelopt")
    with pytest.raises(ValueError, match=message):
        import_state(change(state))


def test_an_unknown_convention_is_named():
    with pytest.raises(ValueError, match="no convention 'x'; there are longlive, transformer_eng"):
        export_state({}, "x")


@pytest.mark.parametrize("rule", ScaleRule)
def test_the_originals_packed_file_goes_round(rule, tmp_path):
    config = PackedConfig(weight=QuantizeConfig(rule=rule))
    source = Small()
    state = packed(source, config)
    write_published(tmp_path / "model_4o6.pt", state, config)
    content = torch.load(tmp_path / "model_4o6.pt", weights_only=True)
    assert "model.blocks.0.quantized_weight_metadata" in content["generator"]
    back, found = read_published(tmp_path / "model_4o6.pt")
    assert found == config
    model, x = Small(), torch.randn(3, 32)
    load_packed(model, back, found)
    torch.testing.assert_close(model(x), decoded(source, config)(x))


def test_published_files_that_are_not_clear_are_refused(tmp_path):
    path, state = tmp_path / "model.pt", packed(Small())
    write_published(path, state, MSE)
    with pytest.raises(ValueError, match="says that its rule is 'mse', and config="):
        read_published(path, config=QuantizeConfig())
    content = torch.load(path, weights_only=True)
    torch.save(content | {"quantization": {}}, path)
    with pytest.raises(ValueError, match="does not say by which rule"):
        read_published(path)
    assert read_published(path, config=MSE.weight)[1] == MSE
    torch.save(content | {"quantization": {"weight_scale_rule": "new"}}, path)
    with pytest.raises(ValueError, match="packed by the rule 'new', which is not known"):
        read_published(path)
    torch.save({"generator": {}, "checkpoint_format": "longlive_generator_te_nvfp4"}, path)
    with pytest.raises(ValueError, match="its checkpoint_format is 'longlive_generator_te_nvfp4'"):
        read_published(path)
    odd = PackedConfig(weight=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE, bound=448))
    with pytest.raises(ValueError, match="no word for a bound of 448"):
        write_published(path, state, odd)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    source = write_tiny_model(tmp_path_factory.mktemp("model"))
    target = source.with_name("packed")
    steps = []
    made = pack_model_folder(
        source, target, MSE, file_bytes=4000, progress=lambda *step: steps.append(step)
    )
    return source, target, made, steps


def test_a_folder_is_packed_tensor_by_tensor(folders):
    source, target, made, steps = folders
    assert made.source_sha256 == fingerprint(source)
    assert made.sha256 == fingerprint(target)
    assert [step[0] for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1][1] == len(steps)
    _, tensors = load_part(target / "transformer")
    assert packed_modules(tensors) != ()
    assert set(packed_modules(tensors)) == set(made.report.swapped)
    assert sum(tensor.nbytes for tensor in tensors.values()) == made.report.bytes_after
    plain = [t for name, t in tensors.items() if ".weight_" not in name]
    assert {t.dtype for t in plain} == {torch.bfloat16}
    index = json.loads((target / "transformer" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == made.report.bytes_after
    assert (target / "vae" / "config.json").read_bytes() == (
        source / "vae" / "config.json"
    ).read_bytes()
    notes = json.loads((target / "model_index.json").read_text())
    assert notes["packed_from_sha256"] == made.source_sha256
    assert notes["weights_sha256"] == made.sha256
    assert not list(target.parent.glob(".*unfinished"))


def test_a_packed_folder_holds_the_rounded_weights_of_its_source(folders):
    source, target, made, _ = folders
    _, plain = load_part(source / "transformer")
    values, tensors = load_part(target / "transformer")
    values, config = split_quantization(values)
    assert config == MSE
    name = made.report.swapped[0]
    want = quantize(plain[f"{name}.weight"], MSE.weight)
    assert torch.equal(dequantize(read_weight(name, tensors)), dequantize(want))
    with unfilled():
        model = WanTransformer(WanConfig.from_dict(values))
    load_packed(model, tensors, config, decode=torch.float32)
    assert torch.equal(model.get_submodule(name).weight, dequantize(want))


def test_what_is_packed_or_there_already_is_refused(folders, tmp_path):
    source, target, _, _ = folders
    with pytest.raises(ValueError, match="is packed already"):
        plan_packing(target)
    with pytest.raises(ValueError, match="packed exists"):
        pack_model_folder(source, target, MSE)
    with pytest.raises(ValueError, match="names no module"):
        pack_model_folder(source, tmp_path / "x", MSE, keep=("blocks.7",))
    assert not (tmp_path / "x").exists()


def test_a_failure_leaves_nothing(folders, tmp_path):
    source, *_ = folders

    def fail(done, total, name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_model_folder(source, tmp_path / "packed", MSE, progress=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("amax", lambda t: torch.tensor(float("nan")).view(torch.int32), "magnitude of nan"),
        ("amax", lambda t: torch.tensor(float("inf")).view(torch.int32), "magnitude of inf"),
        ("amax", lambda t: torch.tensor(-1.0).view(torch.int32), "magnitude of -1"),
        ("amax", torch.zeros_like, "tensor scale is 0, and its block scales are not"),
        ("scales", lambda t: torch.full_like(t, 0x7F), "96 of its 96 block scales are NaN"),
        ("scales", lambda t: t | 0x80, "block scales are negative"),
        ("scales", torch.zeros_like, "block scales are 0, and its codes are not"),
        ("scales", lambda t: t.float(), "weight_scales in torch.float32, and it holds bits"),
        ("format", lambda t: t[:3], "7 whole numbers, got 3"),
    ],
)
def test_packed_weights_that_are_none_are_refused(part, change, message):
    state = packed(Small())
    key = f"blocks.0.weight_{part}"
    state[key] = change(state[key])
    with pytest.raises(ValueError, match=message):
        load_packed(Small(), state, MSE, source="here")
    del state[key]
    with pytest.raises(ValueError, match=f"here has blocks.0.weight_codes without {key}"):
        load_packed(Small(), state, MSE, source="here")


def test_a_dead_layer_is_zeros_and_says_which_module_is_damaged():
    model = Small()
    nn.init.zeros_(model.blocks[0].weight)
    state = export_state(packed(model), "modelopt")
    loaded = Small()
    load_packed(loaded, import_state(state), MSE)
    assert not dequantize(loaded.blocks[0].weight).any()
    state["blocks.1.input_scale"] = torch.tensor(float("nan"))
    with pytest.raises(ValueError, match="^blocks.1: .*its input_scale is"):
        import_state(state)
