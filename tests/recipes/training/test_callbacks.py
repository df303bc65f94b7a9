"""The moving average against its closed form, the clock, the record, the checkpoint."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from longlive_recipes.training.callbacks import Clock, LastCheckpoint, MovingAverage, Record
from longlive_recipes.training.schedule import Budget


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
    for step, value in enumerate(values[1:], start=1):
        nn.init.constant_(module.weight, value)
        average.update(module, step)
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
        whole.update(module, step)
        (first if step < 5 else resumed).update(module, step)
    assert averaged(resumed, module) == averaged(whole, module) != module.weight.item()


def test_gradient_accumulation_does_not_count_as_a_step():
    module, average = module_with(1.0), MovingAverage(0.5)
    average.start(module)
    nn.init.constant_(module.weight, 2.0)
    for step in (0, 0, 1, 1):
        average.on_train_batch_end(SimpleNamespace(global_step=step), module, None, 0, 0)
    assert averaged(average, module) == pytest.approx(2 / 11 + 2 * 9 / 11)
    resumed = MovingAverage(0.5)
    resumed.load_state_dict(average.state_dict())
    resumed.start(module)
    resumed.on_train_batch_end(SimpleNamespace(global_step=1), module, None, 0, 0)
    assert averaged(resumed, module) == averaged(average, module)


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


def test_the_clock_ends_a_run_with_its_last_step():
    clock = Clock(Budget(steps=3, warmup_steps=0))
    for step in range(4):
        trainer = SimpleNamespace(global_step=step, should_stop=False, world_size=1)
        clock.on_train_batch_end(trainer, None, None, 0, 0)
        assert clock.finished == trainer.should_stop == (step >= 3)


def test_a_run_is_recorded_and_so_is_that_it_was_resumed(tmp_path):
    trainer, module = SimpleNamespace(is_global_zero=True), SimpleNamespace(device="cpu")
    module.device = torch.device("cpu")
    Record(tmp_path, Budget(steps=5, warmup_steps=0)).on_fit_start(trainer, module)
    first = json.loads((tmp_path / "run.json").read_text())
    assert first["recipe"] == "Budget"
    assert first["config"]["steps"] == 5
    assert "resumed" not in first
    for step in (2, 4):
        resumed = {"checkpoint": "last.ckpt", "step": step}
        Record(tmp_path, Budget(steps=5, warmup_steps=0), resumed=resumed).on_fit_start(
            trainer, module
        )
    record = json.loads((tmp_path / "run.json").read_text())
    assert [entry["step"] for entry in record.pop("resumed")] == [2, 4]
    assert record == first


def test_a_checkpoint_is_due_after_its_minutes_at_the_end_and_on_sigterm(tmp_path, monkeypatch):
    from longlive_recipes.training import callbacks

    now, saved = [0.0], []
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trainer = SimpleNamespace(
        received_sigterm=False,
        save_checkpoint=lambda path, weights_only: saved.append(now[0]),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda due, all: due),
    )
    clock = Clock(Budget())
    keeper = LastCheckpoint(tmp_path / "last.ckpt", clock, minutes=1.0)
    module = torch.nn.Linear(1, 1)
    keeper.on_train_start(trainer, module)

    def step(seconds):
        now[0] += seconds
        keeper.on_train_batch_end(trainer, module, None, 0, 0)

    for _ in range(13):
        step(10)
    assert saved == [60, 120]
    clock.finished = True
    step(1)
    clock.finished, trainer.received_sigterm = False, True
    step(1)
    assert saved == [60, 120, 131, 132]
    keeper.on_train_end(trainer, module)


def test_a_checkpoint_of_numbers_that_are_none_replaces_nothing(tmp_path):
    saved = []
    trainer = SimpleNamespace(
        received_sigterm=False,
        global_step=7,
        save_checkpoint=lambda path, weights_only: saved.append(path),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda due, all: due),
    )
    module = torch.nn.Linear(2, 1)
    keeper = LastCheckpoint(tmp_path / "last.ckpt", Clock(Budget()), minutes=0.0)
    keeper.on_train_batch_end(trainer, module, None, 0, 0)
    with torch.no_grad():
        module.weight[0, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"after step 7 are no finite numbers \(weight\)"):
        keeper.on_train_batch_end(trainer, module, None, 0, 0)
    assert len(saved) == 1
