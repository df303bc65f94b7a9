"""The tests of backends: right ones pass, wrong and broken ones are found, on any device."""

from dataclasses import replace

import pytest
import torch

from longlive_core.backends import Backend, Operation
from longlive_recipes.bench import self_tests
from longlive_recipes.bench.self_tests import TESTS, SelfTest, distance, run

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_backend_that_can_run_here_is_right(dtype):
    found = list(run(CPU, dtype, head_dim=64, named=True))
    assert [f"{one.operation} {one.backend}: {one.problem}" for one in found if not one.right] == []
    assert {one.operation for one in found} == {test.operation.name for test in TESTS}
    assert all(one.milliseconds > 0 for one in found)
    assert {one.backend for one in found if one.operation == "attention"} == {"sdpa", "reference"}


def test_every_table_of_the_core_is_tested():
    import importlib
    import pkgutil

    import longlive_core

    tables: set[str] = set()
    for module in pkgutil.walk_packages(longlive_core.__path__, "longlive_core."):
        if ".kernels" not in module.name:
            held = vars(importlib.import_module(module.name)).values()
            tables |= {value.name for value in held if isinstance(value, Operation)}
    assert tables == {test.operation.name for test in TESTS}


def table(*, run_fast, near: float = 0.0) -> SelfTest:
    """An operation with a reference, and another backend in front of it."""
    operation = Operation(
        "double",
        (Backend(name="fast", run=run_fast), Backend(name="reference", run=lambda x: 2 * x)),
    )

    def compute(device, dtype, head_dim, backend):
        x = torch.arange(1, 9, dtype=dtype, device=device)
        return operation.named(backend).run(x)

    return SelfTest(operation=operation, near=near, compute=compute)


@pytest.mark.parametrize(
    ("fast", "near", "right"),
    [
        (lambda x: x + x, 0.0, True),
        (lambda x: x * 2.001, 0.0, False),
        (lambda x: x * 2.001, 0.01, True),
        (lambda x: x * float("nan"), 1.0, False),
        (lambda x: 2 * x[1:], 1.0, False),
    ],
)
def test_a_backend_is_right_if_it_is_near_its_reference(monkeypatch, fast, near, right):
    monkeypatch.setattr(self_tests, "TESTS", (table(run_fast=fast, near=near),))
    reference, found = run(CPU, torch.float32)
    assert (reference.backend, reference.right) == ("reference", True)
    assert (found.backend, found.right) == ("fast", right)


@pytest.mark.parametrize("problem", [RuntimeError("no kernel\n image"), OSError(), KeyError("a")])
def test_a_backend_that_breaks_is_found_and_the_others_are_tested(monkeypatch, problem):
    def broken(x):
        raise problem

    both = (table(run_fast=broken), table(run_fast=lambda x: x + x))
    monkeypatch.setattr(self_tests, "TESTS", both)
    found = list(run(CPU, torch.float32))
    assert [one.right for one in found] == [True, False, True, True]
    assert found[1].problem and "\n" not in found[1].problem


def test_what_runs_only_when_named_is_tested_where_asked(monkeypatch):
    test = table(run_fast=lambda x: x + x)
    fast, reference = test.operation.backends
    slow = replace(fast, why_not_auto=lambda request: "it compiles for minutes")
    monkeypatch.setattr(
        self_tests,
        "TESTS",
        (replace(test, operation=Operation("double", (slow, reference))),),
    )
    assert [one.backend for one in run(CPU, torch.float32)] == ["reference"]
    assert [one.backend for one in run(CPU, torch.float32, named=True)] == ["reference", "fast"]


def test_distance_is_relative_and_infinite_for_what_cannot_be_compared():
    ones = torch.ones(4)
    assert distance(ones * 1.5, ones) == pytest.approx(0.5)
    assert distance(ones, ones) == 0
    assert distance(ones[:2], ones) == float("inf")
    assert distance(ones * float("inf"), ones) == float("inf")
