"""Which parameters optimizers and averages are given, and what is refused; their states by name."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from longlive_recipes.training.optimizer_states import (
    named_state,
    numbered_state,
    parameter_names,
)
from longlive_recipes.training.optimizers import (
    AdamW,
    AverageOf,
    OptimizationPlan,
    TrainedBy,
    frozen,
    select,
    trainable,
)
from tests.recipes.student_and_critic import PLAN, Pair, PairModule
from tests.recipes.tiny_runs import assert_equal, quiet_run

NAMES = ("base.weight", "student.lora_a.x", "student.lora_a.y", "critic.lora_a.x")


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ("*", NAMES),
        ("student.*", NAMES[1:3]),
        ("*.lora_?.x", (NAMES[1], NAMES[3])),
        (("critic.*", "base.*"), (NAMES[0], NAMES[3])),
        (lambda name: "student" in name and name.endswith("y"), NAMES[2:3]),
    ],
)
def test_parameters_are_chosen_by_patterns_or_a_function_in_their_order(selection, chosen):
    assert tuple(select(NAMES, selection, "x")) == chosen


def test_patterns_tell_capitals_and_whole_names_apart():
    with pytest.raises(ValueError, match=r"'a' has no parameters: 'Student.\*' fits none"):
        select(NAMES, "Student.*", "optimizer 'a'")
    with pytest.raises(ValueError, match="base.weight, student.lora_a.x"):
        select(NAMES, "student", "x")


def test_frozen_parameters_are_never_chosen():
    module = PairModule(Pair(run=quiet_run("unused")))
    assert frozen(module) == ["base.weight", "base.bias"]
    assert not set(frozen(module)) & set(trainable(module))
    chosen = PLAN.trained(module)
    assert chosen == {
        "student": ["student.weight", "student.bias"],
        "critic": ["critic.weight", "critic.bias"],
    }
    assert PLAN.averaged(module)["critic_weight"] == ["critic.weight"]


@pytest.mark.parametrize("updates", [0, 1, 3])
def test_a_state_by_names_is_the_state_and_asking_for_it_changes_nothing(updates):
    module = nn.ModuleDict({"b": nn.Linear(2, 3), "a": nn.Linear(3, 1)})
    parameters = [module["a"].bias, module["b"].weight]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for _ in range(updates):
        module["a"](module["b"](torch.ones(1, 2))).sum().backward()
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    named = named_state(module, optimizer)
    assert parameter_names(named) == ["a.bias", "b.weight"]
    assert set(named["state"]) == ({"a.bias", "b.weight"} if updates else set())
    assert_equal(optimizer.state_dict(), before, "state")
    assert_equal(numbered_state(named), before, "state")


def plan_of(**selections) -> OptimizationPlan:
    return OptimizationPlan(
        optimizers={
            name: TrainedBy(adamw=AdamW(), parameters=selection)
            for name, selection in selections.items()
        }
    )


@pytest.mark.parametrize(
    ("selections", "message"),
    [
        ({"a": "student.*"}, "no optimizer trains critic.weight, critic.bias: freeze"),
        ({"a": "*", "b": "critic.*"}, "'a' and 'b' both train critic.weight and 1 others"),
        ({"a": "*", "b": "base.*"}, r"optimizer 'b' has no parameters: 'base.\*' fits none"),
        ({"a": "*", "b": lambda name: False}, "optimizer 'b' has no parameters"),
    ],
)
def test_every_trainable_parameter_has_one_optimizer(selections, message, tmp_path):
    module = PairModule(Pair(run=quiet_run(tmp_path)), plan=plan_of(**selections))
    with pytest.raises(ValueError, match=message):
        module.configure_optimizers()


def test_two_averages_of_one_weight_are_refused_where_both_are_evaluated(tmp_path):
    averages = {"fast": AverageOf(decay=0.5), "slow": AverageOf(decay=0.9, parameters="student.*")}
    module = PairModule(Pair(run=quiet_run(tmp_path)), plan=replace(PLAN, averages=averages))
    with pytest.raises(ValueError, match="'fast' and 'slow' are both evaluated and both hold stud"):
        module.configure_optimizers()
    averages["slow"] = replace(averages["slow"], evaluated=False)
    replace(PLAN, averages=averages).averaged(copy.deepcopy(module))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": {}}, "one optimizer or more, got none"),
        ({"optimizers": {"a b": TrainedBy(adamw=AdamW())}}, "a name of letters, digits and _"),
        ({"manual": False}, "manual=False is for one optimizer, got 2"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **changes)
