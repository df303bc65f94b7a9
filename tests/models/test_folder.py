"""A part on disk: what is written comes back, and what is not whole is refused by name."""

import json

import pytest
import torch
from torch import nn

from longlive_models.folder import (
    SHARD,
    fill,
    fingerprint,
    load_part,
    read_config,
    save_part,
    unfilled,
    weight_files,
)

CONFIG = {"dim": 4, "nested": {"list": [1, 2.5, None]}}
TENSORS = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(7), "c": torch.ones(2).half()}


def assert_same(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == wanted[name].dtype
        assert torch.equal(tensor, wanted[name])


def test_a_part_comes_back_as_it_was(tmp_path):
    save_part(tmp_path / "new" / "part", CONFIG, TENSORS)
    config, tensors = load_part(tmp_path / "new" / "part")
    assert config == CONFIG
    assert_same(tensors, TENSORS)


def test_a_type_is_for_floating_point_weights(tmp_path):
    save_part(tmp_path, CONFIG, TENSORS, dtype=torch.bfloat16)
    _, tensors = load_part(tmp_path)
    assert [tensors[name].dtype for name in "abc"] == [torch.bfloat16, torch.int64, torch.bfloat16]


def test_large_parts_are_split_and_an_older_one_leaves_nothing_behind(tmp_path):
    large = {f"w{i}": torch.full((1_500_000,), float(i)) for i in range(4)}  # 6 MB each
    save_part(tmp_path, CONFIG, large)
    files = weight_files(tmp_path)
    limit = int(SHARD.removesuffix("MB")) * 10**6 + 4096  # a header
    assert len(files) == 2
    assert all(file.stat().st_size < limit for file in files)
    assert_same(load_part(tmp_path)[1], large)
    save_part(tmp_path, CONFIG, {"w0": large["w0"]})
    assert_same(load_part(tmp_path)[1], {"w0": large["w0"]})


def test_only_files_that_the_index_names_are_read(tmp_path):
    save_part(tmp_path, CONFIG, TENSORS)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(TENSORS, "model-1.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "stray.safetensors").write_bytes(b"not weights")
    assert_same(load_part(tmp_path)[1], TENSORS)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match="it lacks model-1.safetensors"):
        load_part(tmp_path)


def test_what_is_not_there_or_not_readable_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json"):
        load_part(tmp_path)
    (tmp_path / "config.json").write_text("{dim: 3}")
    with pytest.raises(ValueError, match="config.json is not JSON .* line 1"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold an object .* got a list"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks any \*.safetensors"):
        load_part(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_part(tmp_path)


def test_a_module_takes_weights_without_a_copy():
    with unfilled():
        module = nn.Linear(3, 2)
    assert module.weight.is_meta
    weights = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    fill(module, weights, "here")
    assert module.weight.data_ptr() == weights["weight"].data_ptr()
    torch.testing.assert_close(
        module(torch.ones(1, 3)), weights["weight"].sum(1)[None] + module.bias
    )


def test_an_unfilled_module_draws_nothing_and_other_modules_are_made_as_ever():
    state = torch.get_rng_state()
    with unfilled():
        weight = nn.init.normal_(torch.empty(3), std=0.02)
    assert weight.is_meta
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.init.normal_(torch.empty(100)).std() > 0.5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.ones(2, 3)}, r"missing: bias"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(3)}, r"bias \[3\] for \[2\]"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "extra": torch.ones(1)},
            "unexpected: extra",
        ),
        ({f"w{i}": torch.ones(1) for i in range(9)}, "unexpected: w0, w1, w2, w3, w4 and 4 more"),
    ],
)
def test_weights_that_are_not_the_modules_are_refused_by_name(weights, message):
    module = nn.Linear(3, 2)
    kept = module.weight.detach().clone()
    with pytest.raises(ValueError, match=f"(?s)some/file does not hold .* Linear .*{message}"):
        fill(module, weights, "some/file")
    assert torch.equal(module.weight, kept)


def test_a_fingerprint_is_of_the_weights_alone(tmp_path):
    save_part(tmp_path / "a", CONFIG, TENSORS)
    first = fingerprint(tmp_path)
    (tmp_path / "a" / "config.json").write_text("{}")
    assert fingerprint(tmp_path) == first
    assert fingerprint(tmp_path / "a" / "model.safetensors") == first
    save_part(tmp_path / "b", CONFIG, TENSORS)
    assert fingerprint(tmp_path) != first
