"""Budgets, learning-rate curves and phases."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_recipes.training import schedule
from longlive_recipes.training.schedule import (
    LearningRateCurve,
    Phase,
    Stopwatch,
    TrainingSchedule,
    check_phases,
    current_phase,
)

budgets = st.integers(1, 10_000).flatmap(
    lambda steps: st.builds(
        TrainingSchedule,
        steps=st.just(steps),
        minutes=st.none() | st.floats(0.01, 1000),
        warmup_steps=st.integers(0, min(500, steps)),
        final_rate=st.floats(0, 1),
    )
)
shares = st.floats(0, 1)


@given(budgets, st.integers(0, 20_000), st.floats(0, 1e5))
def test_progress_is_a_share_that_grows_with_steps_and_time(budget, step, seconds):
    now = budget.progress(step, seconds)
    assert 0 <= now <= 1
    assert now <= budget.progress(step + 1, seconds)
    assert now <= budget.progress(step, seconds + 1)
    over = step >= budget.steps or (
        budget.minutes is not None and seconds >= 60 * budget.minutes * (1 + 1e-9)
    )
    if over:
        assert now == 1


@given(budgets)
def test_progress_runs_from_nothing_to_all(budget):
    assert budget.progress(0, 0.0) == 0
    assert budget.progress(budget.steps, 0.0) == 1
    if budget.minutes is not None:
        assert budget.progress(0, 60 * budget.minutes) == pytest.approx(1)


@given(budgets, st.integers(0, 20_000), shares, shares)
def test_the_rate_rises_in_the_warmup_and_falls_with_progress(budget, step, early, late):
    early, late = sorted((early, late))
    assert 0 <= budget.rate(step, late) <= budget.rate(step, early) <= 1
    assert budget.rate(step, early) <= budget.rate(step + 1, early)
    if step >= budget.warmup_steps:
        assert budget.rate(step, early) >= budget.final_rate - 1e-12


@given(budgets, st.integers(0, 20_000), shares)
def test_an_optimizers_own_curve_is_that_of_a_run(budget, updates, progress):
    curve = LearningRateCurve(warmup_updates=budget.warmup_steps, final_rate=budget.final_rate)
    assert budget.curve == curve
    assert curve.rate(updates, progress) == budget.rate(updates, progress)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_updates": -1}, "LearningRateCurve.warmup_updates is at least 0, got -1"),
        ({"final_rate": 2}, "LearningRateCurve.final_rate is at most 1, got 2"),
    ],
)
def test_a_curve_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LearningRateCurve(**changes)


@given(budgets)
def test_the_rate_has_its_peak_after_the_warmup_and_ends_at_its_final_share(budget):
    warm = max(0, budget.warmup_steps - 1)
    assert budget.rate(warm, 0.0) == pytest.approx(1)
    assert budget.rate(warm, 1.0) == pytest.approx(budget.final_rate)
    assert budget.rate(warm, 0.5) == pytest.approx((1 + budget.final_rate) / 2)
    if budget.warmup_steps:
        assert budget.rate(0, 0.0) == pytest.approx(1 / budget.warmup_steps)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "TrainingSchedule.steps is at least 1, got 0"),
        ({"steps": (1 << 24) + 1}, "counts them in float32"),
        ({"steps": 10.0}, "TrainingSchedule.steps is a whole number, got 10.0"),
        ({"steps": True}, "TrainingSchedule.steps is a whole number, got True"),
        ({"minutes": 0.0}, "TrainingSchedule.minutes is above 0, got 0.0"),
        ({"minutes": NAN}, "TrainingSchedule.minutes is a finite number, got nan"),
        ({"minutes": INF}, "TrainingSchedule.minutes is a finite number, got inf"),
        ({"minutes": 1e9}, "a year at most"),
        ({"minutes": "5"}, "TrainingSchedule.minutes is a finite number, got '5'"),
        ({"warmup_steps": -1}, "TrainingSchedule.warmup_steps is at least 0, got -1"),
        ({"steps": 50, "warmup_steps": 51}, "TrainingSchedule.warmup_steps is at most 50, got 51"),
        ({"final_rate": 1.5}, "TrainingSchedule.final_rate is at most 1, got 1.5"),
        ({"final_rate": NAN}, "TrainingSchedule.final_rate is a finite number"),
    ],
)
def test_what_is_no_budget_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingSchedule(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 0}, "Phase.length is at least 1, got 0"),
        ({"length": 1.5}, "Phase.length is a whole number, got 1.5"),
        ({"batch": 0}, "Phase.batch is at least 1, got 0"),
        ({"batch": None}, "Phase.batch is a whole number, got None"),
        ({"until": 0.0}, "Phase.until is above 0, got 0.0"),
        ({"until": 1.5}, "Phase.until is at most 1, got 1.5"),
        ({"until": NAN}, "Phase.until is a finite number, got nan"),
    ],
)
def test_what_is_no_phase_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Phase(**({"length": 1, "batch": 1, "until": 1.0} | fields))


def test_numbers_of_numpy_become_plain_ones():
    made = TrainingSchedule(steps=np.int32(9), warmup_steps=np.uint8(3), minutes=np.float32(1.5))
    assert made == TrainingSchedule(steps=9, warmup_steps=3, minutes=1.5)
    assert [type(value) for value in (made.steps, made.minutes)] == [int, float]


@st.composite
def phase_rows(draw):
    ends = sorted(draw(st.sets(st.floats(0.01, 0.99), max_size=4))) + [1.0]
    return tuple(Phase(length=n + 1, batch=1, until=end) for n, end in enumerate(ends))


@given(phase_rows(), shares)
def test_the_phase_is_the_first_that_is_not_over(phases, progress):
    check_phases(phases)
    phase = current_phase(phases, progress)
    number = phases.index(phase)
    assert progress < phase.until or (progress == 1 and phase is phases[-1])
    assert number == 0 or progress >= phases[number - 1].until
    for before, after in zip(phases, phases[1:], strict=False):
        assert current_phase(phases, before.until) is after  # an edge belongs to what it begins


def test_phases_must_follow_each_other_to_the_end():
    def row(*ends):
        return tuple(Phase(length=1, batch=1, until=end) for end in ends)

    for wrong in (row(), row(0.5), row(0.5, 0.5, 1.0), row(0.7, 0.2, 1.0)):
        with pytest.raises(ValueError, match="must end one after the other, the last at 1"):
            check_phases(wrong)


def test_a_stopwatch_goes_on_with_the_seconds_before(monkeypatch):
    class FakeTime:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = FakeTime()
    monkeypatch.setattr(schedule, "time", clock)
    first = Stopwatch()
    assert first.seconds == 0
    clock.now += 5
    assert first.seconds == 0  # not started
    first.start()
    clock.now += 7
    assert first.seconds == 7
    second = Stopwatch()
    second.load_state_dict(first.state_dict())
    clock.now += 50
    assert second.seconds == 7
    second.start()
    clock.now += 2
    assert second.seconds == 9
