"""Seeds of steps, and what a step module does around its subclass."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_recipes.training.module import (
    CHOICES,
    NOISE,
    TrainingModule,
    maybe_compile,
    step_seed,
)
from longlive_recipes.training.optimizers import ONLY, Optimization
from longlive_recipes.training.schedule import TrainingSchedule
from tests.recipes.tiny_runs import Toy, ToyModule, quiet_run

numbers = st.integers(0, 2**31)
words = st.tuples(numbers, numbers, st.sampled_from((NOISE, CHOICES)))


@given(words, words)
def test_each_run_step_and_stream_has_a_seed_of_its_own(one, other):
    assert (step_seed(*one) == step_seed(*other)) == (one == other)
    assert 0 <= step_seed(*one) < 2**64


def test_seeds_are_the_same_everywhere():
    assert step_seed(0, 0, NOISE) == 15793235383387715774
    assert step_seed(7, 1234, CHOICES) == step_seed(7, 1234, CHOICES) != step_seed(1234, 7, CHOICES)


@given(st.integers(0, 10**6))
def test_neighboring_steps_draw_unlike_numbers(step):
    toy = ToyModule(Toy(run=quiet_run("unused")))
    one, next_one = (torch.randn(1000, generator=toy.choices(s)) for s in (step, step + 1))
    assert abs(torch.corrcoef(torch.stack((one, next_one)))[0, 1]) < 0.2
    again = torch.randn(1000, generator=toy.choices(step))
    assert torch.equal(one, again)


def test_within_averaged_the_module_is_the_average_and_afterwards_itself():
    toy = ToyModule(Toy(run=quiet_run("unused")))
    toy.averages[ONLY].start(toy)
    with torch.no_grad():
        toy.line.weight.fill_(5.0)
    with pytest.raises(RuntimeError), toy.averaged():
        assert toy.line.weight.item() == 0.0
        assert not toy.line.training
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert toy.line.weight.item() == 5.0
    assert toy.line.training
    assert torch.is_grad_enabled()


def test_a_step_refuses_the_batch_of_another_one():
    toy = ToyModule(Toy(run=quiet_run("unused")))
    with pytest.raises(AssertionError, match="step 0 was given batch 4"):
        toy.on_train_batch_start(4, 0)


def test_what_a_recipe_must_write_is_named():
    with pytest.raises(TypeError, match="samples.*training_step.*validate"):
        TrainingModule(TrainingSchedule(), Optimization(), 0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own
def test_compiling_is_asked_for():
    def double(x):
        return 2 * x

    assert maybe_compile(double, False) is double
    assert maybe_compile(double, True) is not double  # torch knows the options; nothing is run
