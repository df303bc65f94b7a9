"""The golden vectors hold, and the runner that says so does not say so of anything."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checks.framework import RULES, Case, Report, Verdict, read_case, run_case
from tests.conformance import main

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "manifest.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_the_library_agrees_with_the_original(name):
    verdict = run_case(GOLDEN, name, CASES[name])
    assert verdict.kind in ("held", "held (parity)"), str(verdict)


def test_the_folder_is_small_and_what_its_manifest_says():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) <= 8_000_000
    assert {path.name for path in GOLDEN.iterdir()} == {
        "manifest.json",
        *(meta["file"] for meta in CASES.values()),
    }
    for meta in CASES.values():
        data = (GOLDEN / meta["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == meta["sha256"]
        if meta["file"].endswith(".safetensors"):
            assert set(load_file(GOLDEN / meta["file"])) == set(meta["tensors"])


def report() -> Report:
    return Report(Case(name="case", group=1, meta={}, tensors={}, weights={}))


def test_a_report_without_comparisons_has_failed():
    assert str(report().verdict()) == "failed: nothing was compared"


def test_a_report_holds_within_its_tolerance_and_names_the_worst_mismatch():
    want = torch.tensor([1.0, 100.0, float("nan")])
    held = report()
    held.close("a", want * (1 + 1e-5), want, rtol=1e-4, atol=0.0)
    assert held.verdict() == Verdict("held")
    assert held.verdict(parity=True) == Verdict("held (parity)")
    held.close("b", want + torch.tensor([0.01, 0.3, 0.0]), want, rtol=1e-3, atol=0.0)
    assert held.verdict().detail.startswith("b[0]: 1.00999999, expected 1 ")
    held.close("c", torch.tensor([float("nan")]), torch.tensor([1.0]), rtol=1.0, atol=1.0)
    assert held.verdict().detail.startswith("c[0]: nan, expected 1 ")


def test_a_report_can_be_exact():
    exact = report()
    exact.equal("codes", torch.tensor([1, 2]), torch.tensor([1, 2]))
    exact.equal("mask", torch.tensor([True]), torch.tensor([True]))
    exact.equal("pages", (0, 1), (0, 1))
    assert exact.verdict().kind == "held"
    for got, want in (
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([1.0]), torch.tensor([1.0 + 1e-7])),
        (torch.zeros(2), torch.zeros(2, 1)),
        ((0, 1), (0, 2)),
    ):
        wrong = report()
        wrong.equal("x", got, want)
        assert wrong.verdict().kind == "failed"


def test_what_differs_on_purpose_needs_a_rule():
    rule = next(iter(RULES))
    assert str(Verdict.refused(rule)) == f"refused: {rule}"
    assert str(Verdict.differs(rule)) == f"differs: {rule}"
    with pytest.raises(ValueError, match="needs a rule.*got 'because'"):
        Verdict.refused("because")


def test_weights_come_from_the_named_file_as_float32(tmp_path):
    weight = torch.randn(3).bfloat16()
    save_file({"weight.a.b": weight, "output.y": weight.clone()}, tmp_path / "one.safetensors")
    save_file({"input.x": torch.ones(1)}, tmp_path / "two.safetensors")
    meta = {"group": 1, "file": "two.safetensors", "weights_from": "one.safetensors"}
    case = read_case(tmp_path, "two", meta)
    assert list(case.tensors) == ["input.x"]
    assert torch.equal(case.weights["a.b"], weight.float())


@pytest.fixture
def altered(tmp_path):
    """A folder with one case that holds, and the same with one number changed."""
    meta = dict(CASES["c5_unipc_trajectory"])
    tensors = load_file(GOLDEN / meta["file"])
    save_file(tensors, tmp_path / "right.safetensors")
    sigmas = next(name for name in tensors if name.endswith("sigmas"))
    tensors[sigmas] = tensors[sigmas] + 1e-3
    save_file(tensors, tmp_path / "wrong.safetensors")
    cases = {name: {**meta, "file": f"{name}.safetensors"} for name in ("right", "wrong")}
    cases["later"] = {**CASES["c11_critic_loss"], "file": "right.safetensors", "group": 98}
    (tmp_path / "manifest.json").write_text(json.dumps({"cases": cases}))
    return tmp_path


def test_the_runner_prints_a_line_a_case_and_fails_when_one_did(altered, capsys):
    assert main([str(altered)]) == 1
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["right"] == "held"
    assert lines["wrong"].startswith("failed: ")
    assert "sigmas" in lines["wrong"]
    assert lines["later"] == "not yet: a check of group 98"


def test_with_a_group_not_yet_is_a_failure_too(altered, capsys):
    assert main([str(altered), "--group", "98", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["case"] == "later"
    assert record["verdict"] == "not yet"


def test_the_runner_passes_where_all_holds(altered):
    (altered / "wrong.safetensors").write_bytes((altered / "right.safetensors").read_bytes())
    assert main([str(altered)]) == 0
    assert main([str(altered), "--group", "5"]) == 0


def test_the_runner_refuses_what_is_no_golden_folder(tmp_path, altered, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert main([str(altered), "--group", "99"]) == 2
    assert "no case of group 99" in capsys.readouterr().err
