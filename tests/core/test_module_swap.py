"""Swapping linears: patterns, shared weights, and the report."""

import weakref

import pytest
import torch
from torch import nn

from longlive_core.module_swap import KEEP, features, matches, plan_swap, swap_linears


class Doubled(nn.Module):
    """Stands for a converted linear: twice the bytes."""

    def __init__(self, linear):
        super().__init__()
        self.weight = nn.Parameter(torch.cat((linear.weight, linear.weight)))


class Odd(nn.Linear):
    """A linear that is more than one."""


def model() -> nn.Module:
    net = nn.Module()
    net.text_embedding = nn.Sequential(nn.Linear(4, 4))
    net.blocks = nn.ModuleList(
        nn.ModuleDict({"q": nn.Linear(4, 4), "norm_q": nn.Linear(4, 4)}) for _ in range(2)
    )
    net.head = nn.ModuleDict({"head": nn.Linear(4, 4)})
    net.odd = Odd(4, 4)
    return net


def plan(net, why_keep=lambda linear: None, **options):
    return plan_swap(net, kinds=(nn.Linear,), why_keep=why_keep, **options)


@pytest.mark.parametrize(
    ("pattern", "name", "hit"),
    [
        ("head", "head.head", True),
        ("head", "x.head.y", True),
        ("head", "heads.0", False),
        ("norm*", "blocks.0.self_attn.norm_q", True),
        ("blocks.0", "blocks.0.ffn.2", True),
        ("blocks.0", "blocks.01.ffn.2", False),
        ("blocks.*.q", "blocks.3.self_attn.q", True),
        ("ffn.[02]", "blocks.3.ffn.2", True),
        ("ffn.[02]", "blocks.3.ffn.1", False),
    ],
)
def test_patterns_match_names_and_runs_of_their_parts(pattern, name, hit):
    assert matches(pattern, name) == hit


def test_the_defaults_keep_the_ends_of_the_original():
    found = plan(model())
    assert found.swapped == ("blocks.0.q", "blocks.1.q")
    assert found.kept == {
        "text_embedding.0": "as 'text_embedding' says",
        "blocks.0.norm_q": "as 'norm*' says",
        "blocks.1.norm_q": "as 'norm*' says",
        "head.head": "as 'head' says",
        "odd": "it is a Odd, which may compute something else",
    }


def test_more_can_be_kept_and_less():
    assert plan(model(), keep=(*KEEP, "blocks.1")).swapped == ("blocks.0.q",)
    assert len(plan(model(), keep=()).swapped) == 6


def test_a_pattern_that_names_nothing_is_refused():
    with pytest.raises(ValueError, match="keep='blcoks.0' names no module.*mean 'blocks.0'"):
        plan(model(), keep=(*KEEP, "blcoks.0"))


def test_a_layer_is_let_go_as_soon_as_it_is_replaced():
    """So that a model is never there twice: one layer is, at a time."""
    net, alive = model(), []
    layers = [weakref.ref(net.get_submodule(name)) for name in plan(net).swapped]

    def make(linear):
        alive.append(sum(layer() is not None for layer in layers))
        return Doubled(linear)

    swap_linears(net, make, plan(net))
    assert alive == [2, 1]


def test_what_cannot_be_converted_is_kept_with_its_reason():
    found = plan(model(), why_keep=lambda linear: "it is too small")
    assert found.swapped == ()
    assert found.kept["blocks.0.q"] == "it is too small"


def test_a_shared_weight_is_kept():
    net = nn.ModuleDict({"words": nn.Embedding(4, 4), "out": nn.Linear(4, 4)})
    net["out"].weight = net["words"].weight
    assert plan(net).kept == {"out": "its weight is shared with words"}


def test_a_module_under_two_names_stays_one():
    one = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": one, "b": one})
    report = swap_linears(net, Doubled, plan(net))
    assert report.swapped == ("a", "b")
    assert net["a"] is net["b"]


def test_swapping_replaces_in_place_and_counts_bytes():
    net = model().eval()
    report = swap_linears(net, Doubled, plan(net))
    assert isinstance(net.blocks[1]["q"], Doubled)
    assert not net.blocks[1]["q"].training
    assert report.bytes_before == 7 * (16 + 4) * 4
    assert report.bytes_after == report.bytes_before + 2 * (16 - 4) * 4
    assert str(report).splitlines() == [
        "2 linears swapped, 5 kept; 560 bytes before, 656 after",
        "  kept, as 'text_embedding' says: text_embedding.0",
        "  kept, as 'norm*' says: blocks.0.norm_q, blocks.1.norm_q",
        "  kept, as 'head' says: head.head",
        "  kept, it is a Odd, which may compute something else: odd",
    ]


def test_a_model_that_is_a_linear_has_no_place_to_swap():
    net = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="no place to be swapped in"):
        swap_linears(net, Doubled, plan(net))


def test_rows_are_as_wide_as_the_weight():
    features("Layer", torch.zeros(0, 3, 4), 4)
    for x in (torch.zeros(4, 3), torch.zeros(())):
        with pytest.raises(ValueError, match="Layer multiplies rows of 4 numbers"):
            features("Layer", x, 4)
