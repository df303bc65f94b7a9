"""The moving average against its closed form, of which parameters it is, and its state."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from longlive_recipes.training.averages import MovingAverage


def module_with(value: float) -> nn.Module:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def averaged(average: MovingAverage, module: nn.Module) -> float:
    with average.applied(module):
        return module.weight.item()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0, 0.9999))
def test_the_average_is_its_closed_form(values, decay):
    """The sum of all values, each weighed by its own share times all later decays."""
    module, average = module_with(values[0]), MovingAverage(decay)
    average.start(module)
    for value in values[1:]:
        nn.init.constant_(module.weight, value)
        average.update(module)
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(1, len(values))]
    shares = [1.0] + [1 - d for d in decays]
    expected = 0.0
    for number, (value, share) in enumerate(zip(values, shares, strict=True)):
        expected += value * share * torch.tensor(decays[number:]).double().prod().item()
    assert averaged(average, module) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert module.weight.item() == pytest.approx(values[-1])


def test_a_moving_average_goes_on_from_its_state():
    module = module_with(0.0)
    whole, first = MovingAverage(0.9), MovingAverage(0.9)
    for average in (whole, first):
        average.start(module)
    for step in range(1, 9):
        nn.init.constant_(module.weight, float(step))
        if step == 5:
            state = {"average": {k: v.clone() for k, v in first.state_dict()["average"].items()}}
            resumed = MovingAverage(0.9)
            resumed.load_state_dict({**state, "step": first.state_dict()["step"]})
            resumed.start(module)
        whole.update(module)
        (first if step < 5 else resumed).update(module)
    assert averaged(resumed, module) == averaged(whole, module) != module.weight.item()


def end_of_step(module: nn.Module, *updated: str) -> SimpleNamespace:
    """A module of which a step updated these parameters."""
    return SimpleNamespace(updated=set(updated), named_parameters=module.named_parameters)


def test_an_average_takes_in_steps_in_which_its_parameters_were_updated():
    module = nn.ModuleDict({"a": module_with(1.0), "b": module_with(1.0)})
    average = MovingAverage(0.5, name="a", parameters="a.*")
    average.start(module)
    nn.init.constant_(module["a"].weight, 2.0)
    for updated in ("b.weight", "a.weight", "b.weight"):
        average.on_train_batch_end(None, end_of_step(module, updated), None, 0, 0)
    state = average.state_dict()
    assert state["step"] == 1
    assert state["average"].keys() == {"a.weight"}
    assert state["average"]["a.weight"].item() == pytest.approx(2 / 11 + 2 * 9 / 11)
    with average.applied(module):
        assert module["a"].weight.item() == pytest.approx(20 / 11)
    assert module["a"].weight.item() == 2.0


def test_averages_of_other_parameters_are_refused():
    module = nn.ModuleDict({"a": module_with(1.0), "b": module_with(1.0)})
    state = {"average": {"a.weight": torch.ones(1, 1)}, "step": 3}
    loaded = MovingAverage(0.5)
    loaded.load_state_dict(state)
    with pytest.raises(ValueError, match=r"holds other parameters than the module's \(b.weight\)"):
        loaded.start(module)
    begun = MovingAverage(0.5)
    begun.start(module)
    with pytest.raises(ValueError, match=r"average 'all' of the checkpoint holds other"):
        begun.load_state_dict(state)


def test_the_average_is_float32_and_leaves_frozen_weights_alone():
    module = nn.Sequential(nn.Linear(2, 2, dtype=torch.bfloat16), nn.Linear(2, 2))
    module[1].requires_grad_(False)
    average = MovingAverage(0.9)
    average.start(module)
    kept = average.state_dict()["average"]
    assert sorted(kept) == ["0.bias", "0.weight"]
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert kept["0.weight"].data_ptr() != module[0].weight.data_ptr()


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_what_is_no_average_is_refused(decay):
    with pytest.raises(ValueError, match=f"needs 0 <= decay < 1, got {decay}"):
        MovingAverage(decay)
