"""What stays: patterns, functions, and the ends that a model's structure shows."""

import pytest
from torch import nn

from longlive_core.keep_rules import ENDS, KEEP, keep_rules, matches, why_kept
from longlive_core.module_swap import plan_swap


class Norm(nn.Module):
    """An adaptive norm, by its class's name."""

    def __init__(self):
        super().__init__()
        self.to_scale = nn.Linear(4, 8)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Norm()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(4, 8))
        self.to_q, self.to_k = nn.Linear(4, 4), nn.Linear(4, 4)
        self.net = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4)])


def model(blocks: int = 2) -> nn.Module:
    net = nn.Module()
    net.enter = nn.Linear(4, 4)
    net.words_embedder = nn.ModuleList([Block()])
    net.layers = nn.ModuleList(Block() for _ in range(blocks))
    net.lm_out = nn.Linear(4, 4)
    return net


def plan(net, **options):
    return plan_swap(net, kinds=(nn.Linear,), why_keep=lambda linear: None, **options)


BODY = tuple(
    f"layers.{i}.{name}" for i in range(2) for name in ("to_q", "to_k", "net.0.0", "net.1")
)


def test_the_ends_and_what_scales_norms_stay():
    found = plan(model())
    assert found.swapped == BODY
    assert set(found.kept.values()) == {
        "it lies outside the model's blocks, as first and last layers do",
        "it is part of an embedding",
        "it makes the shifts and scales of a norm",
    }
    assert found.kept["lm_out"].startswith("it lies outside")
    assert found.kept["words_embedder.0.to_q"] == "it is part of an embedding"
    for name in ("first.to_scale", "adaLN_modulation.1"):
        assert found.kept[f"layers.1.{name}"].startswith("it makes the shifts")


def test_one_block_is_enough():
    assert plan(model(blocks=1)).swapped == tuple(n for n in BODY if n.startswith("layers.0"))


def test_a_name_that_holds_half_of_the_model_is_no_embedding():
    net = nn.Module()
    net.embedder_model = model()
    assert set(plan(net).swapped) == {f"embedder_model.{name}" for name in BODY}


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4)),
        nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Sequential(nn.SiLU(), nn.Linear(4, 4))}),
    ],
)
def test_a_model_without_blocks_has_no_ends(net):
    assert len(plan(net).swapped) == 2
    assert ENDS.kept(net) == {}


def test_ends_can_be_left_out_and_asked_for_alone():
    names = {name for name, module in model().named_modules() if isinstance(module, nn.Linear)}
    assert set(plan(model(), keep=()).swapped) == names
    assert plan(model(), keep=ENDS).swapped == BODY
    assert plan(model(), keep=(*KEEP, "layers.1")).swapped == BODY[:4]


def test_a_plain_string_is_one_pattern_and_not_its_letters():
    assert keep_rules("head") == ("head",)
    found = plan(model(), keep="enter")
    assert [name for name, reason in found.kept.items() if reason == "as 'enter' says"] == ["enter"]
    assert len(found.kept) == 1


def test_a_function_gets_a_linear_and_its_name():
    seen = {}

    def wide(module: nn.Module, name: str) -> bool:
        seen[name] = module
        return module.out_features == 8

    net = model()
    found = plan(net, keep=wide)
    assert found.kept["layers.0.first.to_scale"] == "as the function wide says"
    assert all(net.get_submodule(name) is module for name, module in seen.items())
    assert set(seen) == {*found.kept, *found.swapped}
    assert not any(net.get_submodule(name).out_features == 8 for name in found.swapped)


def test_a_callable_without_a_name_is_called_by_its_type():
    class Never:
        def __call__(self, module, name):
            return True

    assert why_kept((Never(),), "a", nn.Linear(4, 4)) == "as the function Never says"


def test_patterns_are_of_whole_parts():
    assert matches("layers.0", "layers.0.to_q")
    assert not matches("layers.0", "layers.01.to_q")


@pytest.mark.parametrize(("others", "kept"), [(1, False), (2, False), (3, True)])
def test_what_holds_half_of_a_model_is_no_embedding_of_it(others, kept):
    def blocks(count: int) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)) for _ in range(count)
        )

    model = nn.ModuleDict(
        {"embedder": nn.ModuleDict({"blocks": blocks(2)}), "blocks": blocks(others)}
    )
    inside = {f"embedder.blocks.{block}.{linear}" for block in range(2) for linear in range(2)}
    assert set(ENDS.kept(model)) == (inside if kept else set())
