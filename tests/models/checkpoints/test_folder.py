"""A part on disk: what is written comes back, and what is not whole is refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from longlive_models.checkpoints.folder import (
    SHARD,
    check_counts,
    fill,
    fingerprint,
    load_part,
    read_config,
    read_weight_shapes,
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


def write_index(folder, places, name="model") -> None:
    content = json.dumps({"metadata": {}, "weight_map": places})
    (folder / f"{name}.safetensors.index.json").write_text(content)


def test_two_whole_models_in_one_folder_are_refused_by_key_and_files(tmp_path):
    save_part(tmp_path, CONFIG, TENSORS)
    save_file({"b": torch.tensor(8)}, tmp_path / "older.safetensors")
    for call in (load_part, read_weight_shapes):
        with pytest.raises(ValueError, match=r"b is in both model.safetensors and older.safeten"):
            call(tmp_path)
    write_index(tmp_path, dict.fromkeys(TENSORS, "model.safetensors"))
    with pytest.raises(ValueError, match=r"b is in both model.safetensors and older.safetensors"):
        load_part(tmp_path)
    (tmp_path / "older.safetensors").rename(tmp_path / "._model.safetensors")
    assert_same(load_part(tmp_path)[1], TENSORS)  # hidden files are of other programs
    assert fingerprint(tmp_path) == fingerprint(tmp_path / "model.safetensors")
    write_index(tmp_path, dict.fromkeys(TENSORS, "model.safetensors"), "another")
    with pytest.raises(ValueError, match=r"two indexes .* another.safetensors.index.json and mod"):
        weight_files(tmp_path)


def test_an_index_that_an_earlier_save_left_is_told(tmp_path):
    save_part(tmp_path, CONFIG, TENSORS)
    write_index(tmp_path, {"a": "model-00001-of-00002.safetensors"})
    with pytest.raises(ValueError, match=r"lacks model-00001-of-00002.safetensors, but holds mod"):
        weight_files(tmp_path)
    write_index(tmp_path, dict.fromkeys((*TENSORS, "gone"), "model.safetensors"))
    with pytest.raises(ValueError, match=r"says that 'gone' is in .* no file holds it: .* differ"):
        load_part(tmp_path)


@pytest.mark.parametrize(
    "places",
    [None, [], {}, {"a": 3}, {"a": ""}, {"a": ".."}, {"a": "../model.safetensors"}, {"a": None}],
)
def test_an_index_that_is_none_is_refused(places, tmp_path):
    save_part(tmp_path, CONFIG, TENSORS)
    write_index(tmp_path, places)
    with pytest.raises(ValueError, match=r"index.json (is no index of weights|says that 'a' is)"):
        weight_files(tmp_path)


def test_a_series_without_an_index_lacks_what_it_lacks(tmp_path):
    save_part(tmp_path, CONFIG, TENSORS)
    name = "model-00002-of-00003.safetensors"
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    with pytest.raises(ValueError, match=r"lacks model-00001-of-00003.* model-00003-of-00003"):
        weight_files(tmp_path)
    (tmp_path / "model-00001-of-00003.safetensors.part").touch()
    with pytest.raises(ValueError, match=r"only model-00001-of-00003.safetensors.part is there"):
        weight_files(tmp_path)


def test_a_part_that_the_hub_cached_without_its_weights_is_told(tmp_path):
    part = tmp_path / "models--owner--name" / "snapshots" / "abc" / "transformer"
    part.mkdir(parents=True)
    (part / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"owner/name was cached in part.*hf download owner/name"):
        load_part(part)


def test_a_file_that_is_not_whole_is_seen_before_any_weight_is_read(tmp_path):
    save_part(tmp_path, CONFIG, TENSORS)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="model.safetensors is not whole: it has"):
        read_weight_shapes(tmp_path)


def test_more_layers_than_weights_are_refused_before_they_are_built(tmp_path):
    save_part(tmp_path, CONFIG, TENSORS)
    check_counts(tmp_path, {"num_layers": 3})
    with pytest.raises(ValueError, match=r"config.json has num_layers=10000000, .* hold 3 weights"):
        check_counts(tmp_path, {"num_layers": 10**7})


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(dtype):
    module = nn.Linear(3, 2)
    weights = {"weight": torch.ones(2, 3, dtype=dtype), "bias": torch.ones(2)}
    with pytest.raises(ValueError, match=rf"wrong types: weight {dtype} for torch.float32"):
        fill(module, weights, "here")
    fill(module, weights | {"weight": torch.ones(2, 3).half()}, "here")
    module.register_buffer("bits", torch.ones(2, dtype=torch.uint8))
    given = dict(module.state_dict())
    fill(module, given, "here")
    with pytest.raises(ValueError, match=r"wrong types: bits torch.int64 for torch.uint8"):
        fill(module, given | {"bits": torch.ones(2).long()}, "here")


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
