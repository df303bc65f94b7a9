"""LoRA: the product, merging and the way back, PEFT's files, and quantized bases."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from longlive_core.float8 import Float8Linear
from longlive_core.float8 import convert_linears as convert_to_float8
from longlive_core.nvfp4 import NVFP4Linear, NVFP4TrainingLinear, TrainingConfig, convert_linears
from longlive_models.lora import (
    LoRAConfig,
    LoRALinear,
    adapters,
    add_lora,
    fuse_lora,
    load_lora,
    lora_state_dict,
    merge_lora,
    save_lora,
    unmerge_lora,
)

CONFIG = LoRAConfig(rank=4, alpha=8.0, targets=("q", "ffn.0"))


def model(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Module()
    net.blocks = nn.ModuleList(
        nn.ModuleDict({"q": nn.Linear(32, 32), "ffn": nn.Sequential(nn.Linear(32, 48))})
        for _ in range(2)
    )
    net.head = nn.Linear(32, 32)
    return net.to(dtype)


def trained(net: nn.Module, seed: int = 1) -> nn.Module:
    """With adapters that do something."""
    add_lora(net, CONFIG)
    torch.manual_seed(seed)
    for _, layer in adapters(net):
        nn.init.normal_(layer.lora_B.weight)
    return net


NAMES = ("blocks.0.q", "blocks.0.ffn.0", "blocks.1.q", "blocks.1.ffn.0")


def test_adapters_stand_beside_the_targets_and_change_nothing_at_first():
    net, x = model(), torch.randn(3, 32)
    want = net.blocks[0]["q"](x)
    assert add_lora(net, CONFIG) == NAMES
    assert torch.equal(net.blocks[0]["q"](x), want)
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        f"{name}.lora_{part}.weight" for name in NAMES for part in "AB"
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_added_and_scaled(dtype):
    net = trained(model(dtype))
    layer, x = net.blocks[0]["q"], torch.randn(2, 3, 32, dtype=dtype)
    weight = layer.base_layer.weight.double() + 2.0 * (
        layer.lora_B.weight.double() @ layer.lora_A.weight.double()
    )
    want = x.double() @ weight.t() + layer.base_layer.bias.double()
    got = layer(x)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(), want, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_rounds_once_and_unmerging_is_exact(dtype):
    net = trained(model(dtype))
    layer = net.blocks[1]["ffn"][0]
    before, parameter = layer.base_layer.weight.detach().clone(), layer.base_layer.weight
    delta = 2.0 * (layer.lora_B.weight.double() @ layer.lora_A.weight.double())
    merge_lora(net)
    merge_lora(net)  # once is enough
    torch.testing.assert_close(
        layer.base_layer.weight.double(),
        before.double() + delta,
        rtol=torch.finfo(dtype).eps,
        atol=1e-6,
    )
    x = torch.randn(3, 32, dtype=dtype)
    assert torch.equal(layer(x), layer.base_layer(x))
    unmerge_lora(net)
    assert torch.equal(layer.base_layer.weight, before)
    assert layer.base_layer.weight is parameter  # an optimizer still knows it


def test_a_merged_layer_can_be_moved_and_cast():
    net = trained(model())
    before = net.blocks[0]["q"].base_layer.weight.detach().clone()
    merge_lora(net)
    net = copy.deepcopy(net).bfloat16()
    unmerge_lora(net)
    assert torch.equal(net.blocks[0]["q"].base_layer.weight, before.bfloat16())


def test_fusing_leaves_plain_linears_under_their_names():
    net, plain = trained(model()), model()
    x = torch.randn(3, 32)
    want = net.blocks[0]["q"](x)
    assert fuse_lora(net) == NAMES
    assert list(net.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(net.blocks[0]["q"](x), want)


@pytest.mark.parametrize("convert", [convert_linears, convert_to_float8])
@pytest.mark.parametrize("first", ["convert", "adapt"])
def test_quantized_bases(convert, first):
    net = model()
    if first == "convert":
        convert(net)
        add_lora(net, CONFIG)
    else:
        add_lora(net, CONFIG)
        report = convert(net)
        assert all(name.endswith("base_layer") for name in report.swapped)
    layer = net.blocks[0]["q"]
    assert isinstance(layer.base_layer, NVFP4Linear | Float8Linear)
    assert isinstance(layer.lora_A, nn.Linear)
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(3, 32, requires_grad=True)
    want = layer(x)
    want.sum().backward()
    assert x.grad is not None
    assert layer.lora_A.weight.grad is not None
    codes = layer.base_layer.weight_codes.clone()
    with pytest.raises(ValueError, match="rounds its packed weight once more.*requantize=True"):
        layer.merge()
    layer.merge(requantize=True)
    assert not torch.equal(layer.base_layer.weight_codes, codes)
    assert (layer(x) - want).norm() < 0.2 * want.norm()
    assert set(layer.state_dict()) == set(LoRALinear(layer.base_layer, CONFIG).state_dict())
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight_codes, codes)
    assert torch.equal(layer(x), want)


def test_training_linears_take_adapters_and_merge():
    net = model()
    convert_linears(net, TrainingConfig())
    trained(net)
    layer, x = net.blocks[0]["q"], torch.randn(4, 32, requires_grad=True)
    assert isinstance(layer.base_layer, NVFP4TrainingLinear)
    layer(x).sum().backward()
    assert layer.base_layer.weight.grad is None
    layer.merge()
    assert layer.merged


def test_files_go_round(tmp_path):
    net = trained(model())
    save_lora(net, tmp_path / "adapter", base_model="pocket")
    other = model()
    assert load_lora(other, tmp_path / "adapter") == CONFIG
    x = torch.randn(3, 32)
    assert torch.equal(other.blocks[0]["q"](x), net.blocks[0]["q"](x))
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert content["peft_type"] == "LORA"
    assert (content["r"], content["lora_alpha"]) == (4, 8.0)
    assert content["target_modules"] == ["ffn.0", "q"]
    assert content["base_model_name_or_path"] == "pocket"


def test_names_are_those_of_peft():
    assert list(lora_state_dict(trained(model())))[:3] == [
        "base_model.model.blocks.0.q.lora_A.weight",
        "base_model.model.blocks.0.q.lora_B.weight",
        "base_model.model.blocks.0.ffn.0.lora_A.weight",
    ]


@pytest.mark.parametrize("form", ["pt", "holder", "safetensors", "named adapter", "bare"])
def test_every_form_is_read(form, tmp_path):
    net = trained(model())
    tensors = {k: v.detach() for k, v in lora_state_dict(net).items()}
    source = tensors
    if form in ("pt", "holder"):
        source = tmp_path / "lora.pt"
        torch.save({"generator_lora": tensors, "step": 3} if form == "holder" else tensors, source)
    elif form == "safetensors":
        source = tmp_path / "lora.safetensors"
        save_file(tensors, source)
    elif form == "named adapter":
        source = {
            k.replace("_A.", "_A.default.").replace("_B.", "_B.default."): v
            for k, v in tensors.items()
        }
    elif form == "bare":
        source = {k.removeprefix("base_model.model."): v for k, v in tensors.items()}
    other = model()
    load_lora(other, source, config=CONFIG)
    for name, tensor in lora_state_dict(other).items():
        assert torch.equal(tensor, tensors[name])


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    tensors = lora_state_dict(trained(model()))
    net = model()
    before = list(net.state_dict())
    with pytest.raises(ValueError, match=r"wrong shapes: .*\[4, 32\] for \[128, 32\]"):
        load_lora(net, tensors, config=LoRAConfig(targets=CONFIG.targets))
    with pytest.raises(ValueError, match="missing: base_model.model.blocks.0.q.lora_A.weight"):
        load_lora(net, {}, config=CONFIG)
    with pytest.raises(ValueError, match="it holds no adapter_model.safetensors"):
        load_lora(net, tmp_path)
    assert list(net.state_dict()) == before
    with pytest.raises(ValueError, match="no linear of this Module is called x: its linears are"):
        add_lora(net, LoRAConfig(targets=("x",)))
    add_lora(net, CONFIG)
    with pytest.raises(ValueError, match="has adapters already .blocks.0.q"):
        add_lora(net, CONFIG)
    with pytest.raises(ValueError, match="blocks.0.q has an adapter of its own.*rank=4"):
        load_lora(net, tensors, config=LoRAConfig(rank=4, alpha=4.0, targets=CONFIG.targets))
    with pytest.raises(ValueError, match="this model has 0"):
        save_lora(model(), tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"rank_pattern": {"q": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q": 8}}, "alpha_pattern.* several alphas"),
        ({"layers_to_transform": 0}, "leaves out layers .* in target_modules instead"),
        ({"exclude_modules": ["blocks.1.q"]}, "leaves out modules .* in target_modules instead"),
        ({"modules_to_save": ["head"]}, "brings whole modules .*merge_and_unload"),
        ({"lora_bias": True}, "its second matrix has a bias"),
        ({"bias": "lora_only"}, "bias='lora_only', so biases of the base were trained"),
        ({"fan_in_fan_out": True}, r"stored as \[in, out\]"),
        ({"trainable_token_indices": [3]}, "rows of an embedding"),
        ({"megatron_config": {"a": 1}}, "Megatron splits"),
        ({"target_parameters": ["q.weight"]}, "parameters that are no linears' weights"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"use_qalora": True}, "QALoRA"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"a_new_field": 3}, "a_new_field=3, a field that is not known here"),
        ({"use_rslora": "no"}, "use_rslora in adapter_config.json is true or false, got 'no'"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA': only LoRA is read"),
        ({"r": 2.5}, "r in adapter_config.json is a whole number, got 2.5"),
        ({"r": None}, "has no r"),
        ({"lora_alpha": "8"}, "lora_alpha in adapter_config.json is a finite number, got '8'"),
        ({"lora_alpha": float("nan")}, "finite number, got nan"),
        (
            {"lora_alpha": 1e300},
            r"lora_alpha in adapter_config.json is at most 1000000, got 1e\+300",
        ),
        ({"r": 1 << 20}, "r in adapter_config.json is at most 65536, got 1048576"),
        ({"use_rslora": 1}, "use_rslora in adapter_config.json is true or false, got 1"),
        ({"lora_dropout": 2}, "lora_dropout in adapter_config.json is at most 1, got 2"),
        ({"lora_dropout": "a"}, "lora_dropout in adapter_config.json is a finite number, got 'a'"),
        ({"target_modules": None}, "has no target_modules"),
        ({"target_modules": ["q", 3]}, r"is a list of names, got \['q', 3\]"),
        ({"target_modules": ".*q"}, "a pattern as target_modules"),
    ],
)
def test_other_kinds_of_lora_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LoRAConfig.from_peft(CONFIG.to_peft() | change)


@pytest.mark.parametrize("start", [True, False, "gaussian", "Gaussian", "orthogonal", "eva", None])
def test_starts_that_leave_the_base_as_it_is_are_read(start):
    plain = {"peft_version": "0.21.2", "loftq_config": {}, "eva_config": {"rho": 2.0}}
    plain |= {"megatron_core": "megatron.core", "qalora_group_size": 16, "layers_pattern": None}
    values = CONFIG.to_peft() | plain | {"init_lora_weights": start}
    assert LoRAConfig.from_peft(values) == CONFIG


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "lora_ga"])
def test_starts_that_change_the_base_are_refused_with_the_way_to_convert_them(start):
    with pytest.raises(ValueError, match=rf"(?s)={start!r}, .*weight_conversion=START.*twice"):
        LoRAConfig.from_peft(CONFIG.to_peft() | {"init_lora_weights": start})


@pytest.mark.parametrize("start", ["loftq", "something new", 3])
def test_other_starts_are_refused_with_the_way_round(start):
    with pytest.raises(ValueError, match="changes the base's weights as well.*merge_and_unload"):
        LoRAConfig.from_peft(CONFIG.to_peft() | {"init_lora_weights": start})


@pytest.mark.parametrize("rank", [4, 16])
def test_rank_stabilized_adapters_are_scaled_by_the_root(rank):
    values = LoRAConfig(rank=rank, alpha=8.0).to_peft() | {"use_rslora": True}
    config = LoRAConfig.from_peft(values)
    assert config.alpha / config.rank == pytest.approx(8.0 / rank**0.5, rel=1e-15)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica"},
        {"lora_dropout": 0.3},
    ],
)
def test_what_peft_writes_makes_what_peft_makes(options, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle, and not installed")
    targets = ["q", "ffn.0"]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, **options)
    theirs = peft.get_peft_model(model(), config)
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    theirs.save_pretrained(tmp_path)
    ours = model()
    load_lora(ours, tmp_path)
    x = torch.randn(3, 32)
    for name in NAMES:
        want = theirs.eval().base_model.model.get_submodule(name)(x)
        torch.testing.assert_close(ours.eval().get_submodule(name)(x), want)


@pytest.mark.filterwarnings("ignore:.* changes the base weights of the model")
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_peft_converts_the_others_as_the_refusal_says(start, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle, and not installed")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q"], init_lora_weights=start)
    theirs = peft.get_peft_model(model(), config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "start")
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter) / 4
    x = torch.randn(3, 32)
    want = theirs.base_model.model.blocks[1]["q"](x)
    theirs.peft_config["default"].init_lora_weights = start
    theirs.save_pretrained(tmp_path / "raw")
    with pytest.raises(ValueError, match=start):
        load_lora(model(), tmp_path / "raw")
    theirs.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    ours = model()
    assert load_lora(ours, tmp_path / "plain").rank == 8
    torch.testing.assert_close(ours.blocks[1]["q"](x), want, rtol=1e-4, atol=1e-4)


def test_a_misfit_is_blamed_on_what_is_to_blame():
    tensors = {k: v.detach() for k, v in lora_state_dict(trained(model())).items()}
    with pytest.raises(ValueError, match="its rank is 4, and 8 was expected"):
        load_lora(model(), tensors, config=LoRAConfig(rank=8, targets=CONFIG.targets))
    more = tensors | {"base_model.model.blocks.0.q.lora_magnitude_vector": torch.ones(32)}
    with pytest.raises(ValueError, match="more than the two matrices of plain LoRA, as .*magnit"):
        load_lora(model(), more, config=CONFIG)
    with pytest.raises(ValueError, match=r"beside other linears than q\."):
        load_lora(model(), tensors, config=LoRAConfig(rank=4, targets=("q",)))
    name = "base_model.model.blocks.0.q.lora_A.weight"
    with pytest.raises(ValueError, match="no numbers: base_model.model.blocks.0.q.lora_A"):
        load_lora(model(), tensors | {name: tensors[name].int()}, config=CONFIG)
    with pytest.raises(ValueError, match="two tensors become base_model.model.blocks.0.q"):
        load_lora(model(), tensors | {name.removeprefix("base_model.model."): tensors[name]})
    with pytest.raises(ValueError, match="lora_A.weight in the state dict holds nan"):
        load_lora(model(), tensors | {name: tensors[name] * float("nan")}, config=CONFIG)


def test_nothing_is_loaded_into_a_merged_adapter():
    net = trained(model())
    tensors = {k: torch.zeros_like(v) for k, v in lora_state_dict(net).items()}
    merge_lora(net)
    weight = net.blocks[0]["q"].base_layer.weight.clone()
    with pytest.raises(ValueError, match="has an adapter of its own, .*, merged; the one to load"):
        load_lora(net, tensors, config=CONFIG)
    assert torch.equal(net.blocks[0]["q"].base_layer.weight, weight)
    assert all(layer.lora_B.weight.any() for _, layer in adapters(net))
    unmerge_lora(net)
    load_lora(net, tensors, config=CONFIG)
    assert not any(layer.lora_B.weight.any() for _, layer in adapters(net))


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"alpha": float("nan")},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"targets": ()},
        {"targets": ("q", "")},
    ],
)
def test_configs_that_make_no_sense_are_refused(options):
    with pytest.raises(
        ValueError, match="LoRAConfig('s (rank|alpha|dropout) is | needs rank >= 1)"
    ):
        LoRAConfig(**options)


def test_only_linears_take_an_adapter():
    with pytest.raises(ValueError, match="LoRA goes beside a linear, got Conv1d"):
        LoRALinear(nn.Conv1d(1, 1, 1), CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "adapter_config.json: this adapter has peft_type='LOHA'"),
        (
            {"lora_dropout": -1.0},
            "json: lora_dropout in adapter_config.json is at least 0",
        ),
        ({"target_modules": ["z"]}, "adapter: no linear of this .* is called z"),
        ({"r": 5}, "adapter: the adapter does not fit"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(change, message, tmp_path):
    save_lora(trained(model()), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_lora(model(), tmp_path / "adapter")
