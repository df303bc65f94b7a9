"""`longlive doctor`: tests of backends, what to install, and a verdict with its status."""

import json

import pytest
from typer.testing import CliRunner

from longlive_cli.commands.doctor import to_install, verdict_of
from longlive_cli.main import app
from longlive_recipes.bench import self_tests
from longlive_recipes.bench.self_tests import Finding


def longlive(*arguments: str):
    return CliRunner().invoke(app, ["doctor", "--device", "cpu", *arguments])


def test_every_backend_is_tested_and_the_verdict_is_the_last_line():
    done = longlive()
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert any("sdpa       usable; tested, error" in line for line in lines)
    assert any("reference  usable; tested, the reference's bits" in line for line in lines)
    assert lines[-1].startswith("All ")
    assert lines[-1].endswith(" backends that run on cpu are right.")


def test_programs_get_every_test():
    report = json.loads(longlive("--json").stdout)
    [device] = report["devices"]
    assert report["right"] is True and report["verdict"].startswith("All ")
    assert all(test["right"] for test in device["tests"])
    assert {"operation", "backend", "error", "milliseconds", "problem"} <= set(device["tests"][0])


@pytest.mark.parametrize("problem", [None, "no kernel image is available"])
def test_a_wrong_backend_is_told_and_ends_with_status_1(monkeypatch, problem):
    wrong = Finding(
        operation="attention",
        backend="sdpa",
        right=False,
        error=None if problem else 0.5,
        milliseconds=None if problem else 1.0,
        problem=problem,
    )
    monkeypatch.setattr(self_tests, "run", lambda *_, **__: iter([wrong]))
    done = longlive()
    assert done.exit_code == 1
    assert (problem or "WRONG, error 5.0e-01") in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("1 of 1 backends are wrong here: attention sdpa on cpu.")
    assert json.loads(longlive("--json").stdout)["right"] is False


def test_packages_that_would_help_are_named_once():
    reasons = {
        "fa2": "it needs the package flash-attn (flash_attn: No module named 'flash_attn')",
        "fa3": "it needs compute capability 9.0, this GPU has 8.0",
        "sdpa": "usable",
    }
    device = {"device": "cuda:0", "operations": [{"operation": "attention", "reasons": reasons}]}
    assert to_install([device, device]) == {"flash-attn": ["attention fa2"]}
    assert to_install([{**device, "operations": []}]) == {}


def test_a_verdict_counts_all_devices():
    right = {"operation": "a", "backend": "b", "right": True}
    found = [{"device": name, "tests": [right, right]} for name in ("cpu", "cuda:0")]
    assert verdict_of(found)["verdict"] == "All 4 backends that run on cpu, cuda:0 are right."
