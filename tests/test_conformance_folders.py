"""The runner takes a case's settings from its folder: folders of other settings hold as well."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from longlive_models.diffusion import FlowSchedule
from tests.checks.framework import Case, Report, run_case
from tests.checks.group_8 import check_rounded
from tests.checks.settings import Settings
from tests.golden_folders import write_generation
from tests.test_conformance import CASES, GOLDEN

ONE = {"sampling_steps": 1, "guidance_scale": 1.0, "sink_size": 2}
SHOTS = {**ONE, "multi_shot_sink": True}
FORGETS = {**SHOTS, "shot_clean_recache": True}
PLAN, CUTS = [[0, 0, 1, 0, 0, 2, 0, 1]], {1: True, 2: True}

VARIED = {
    "window": {"inference": ONE, "cuts": {}, "window": 6},
    "three blocks": {"inference": {**ONE, "sink_size": 0}, "cuts": {}, "window": -1},
    "t_scale": {"inference": {**SHOTS, "inference_t_scale": 0.5, "multi_shot_rope_offset": 4}},
    "shots": {"inference": {**SHOTS, "sampling_steps": 2, "multi_shot_rope_offset": 3}},
    "two sinks": {"inference": {**SHOTS, "sink_size": 4}, "window": 12},
    "two cuts that forget": {"inference": {**FORGETS, "multi_shot_rope_offset": 8}},
    "cuts that forget one after another": {
        "inference": FORGETS,
        "plan": [[0, 0, 1, 2, 1, 0]],
        "window": 6,
    },
    "two sinks and cuts that forget": {
        "inference": {**FORGETS, "sink_size": 4},
        "plan": [[0, 0, 0, 1, 0, 2, 0]],
        "window": 12,
    },
    "cuts that forget the sink": {"inference": {**ONE, "shot_clean_recache": True}},
    "a guided batch": {
        "inference": {**SHOTS, "guidance_scale": 2.5},
        "plan": [[0, 1, 2, 0], [1, 1, 0, 2]],
        "size": (4, 6),
    },
    "relative": {"inference": SHOTS, "relative": True},
    "blocks of one": {"inference": {**SHOTS, "sink_size": 1}, "block": 1, "window": 4},
    "another shift": {
        "inference": {**SHOTS, "sink_size": 4},
        "block": 4,
        "window": 12,
        "shift": 3.0,
        "model": {"qk_norm": False, "cross_attn_norm": False, "num_heads": 1},
    },
}


@pytest.mark.parametrize("name", VARIED)
def test_generation_holds_under_other_settings(tmp_path, name):
    meta = write_generation(tmp_path, name, **{"plan": PLAN, "cuts": CUTS, **VARIED[name]})
    verdict = run_case(tmp_path, name, meta)
    assert verdict.kind == "held", str(verdict)


@pytest.mark.parametrize(
    "setting", ["inference_t_scale", "multi_shot_rope_offset", "multi_shot_sink", "sink_size"]
)
def test_a_setting_that_is_not_the_folder_s_is_noticed(tmp_path, setting):
    how = {**SHOTS, "inference_t_scale": 0.5, "multi_shot_rope_offset": 4}
    meta = write_generation(tmp_path, "case", plan=PLAN, cuts=CUTS, inference=how)
    changed = {"multi_shot_sink": False, "sink_size": 0}.get(setting, 1.0)
    meta["config"]["pipeline"]["inference"][setting] = changed
    assert run_case(tmp_path, "case", meta).kind == "failed"


@pytest.mark.parametrize("place", [(), ("model",), ("pipeline",), ("pipeline", "inference")])
def test_a_setting_that_nobody_reads_is_a_failure(tmp_path, place):
    meta = write_generation(tmp_path, "case", plan=[[0, 0]], cuts={}, inference=ONE)
    assert run_case(tmp_path, "case", meta).kind == "held"
    where = meta["config"]
    for name in place:
        where = where[name]
    where["new_switch"] = 1
    verdict = run_case(tmp_path, "case", meta)
    assert str(verdict) == f"failed: unknown key {'.'.join([*place, 'new_switch'])}"


@pytest.mark.parametrize(
    "name", [n for n, meta in CASES.items() if meta["group"] in (1, 2, 5, 6, 9, 11)]
)
def test_every_group_names_what_it_does_not_read(name):
    meta = json.loads(json.dumps(CASES[name]))
    meta["config"]["new_switch"] = [1]
    assert str(run_case(GOLDEN, name, meta)).startswith("failed: unknown key new_switch")


def test_settings_that_change_no_number_may_be_unread_at_their_usual_values():
    settings = Settings({"a": {"b": 1, "c": 2}, "model_type": "ti2v", "attention": "exact"})
    assert settings.unused() == ["a.b", "a.c"]
    assert settings["a"]["b"] == 1
    assert {**settings["a"]} == {"b": 1, "c": 2}
    assert settings.unused() == []
    assert Settings({"model_type": "t2v"}).unused() == ["model_type"]
    settings = Settings({"d": 1})
    settings.use("d", "not there")
    assert settings.unused() == []


@pytest.fixture
def case(tmp_path):
    """Puts changed tensors of a golden case in a folder and gives its verdict."""

    def run(name: str, change) -> str:
        meta = CASES[name]
        tensors = load_file(GOLDEN / meta["file"])
        change(tensors)
        save_file(tensors, tmp_path / meta["file"])
        return str(run_case(tmp_path, name, meta))

    return run


def test_a_velocity_is_taken_from_the_x_that_is_given(case):
    """At the last level a last bit of x counts 200 times: x may have been rounded otherwise."""

    def change(tensors):
        x, x0 = tensors["output.add_noise"], tensors["input.x0"]
        tensors["output.add_noise"] = x = torch.nextafter(x, torch.full_like(x, torch.inf))
        level = FlowSchedule(parity=True).sigma(tensors["input.timestep_nonzero"]).double()
        flow = (x.double() - x0.double()) / level.view(-1, 1, 1, 1)
        tensors["output.x0_to_flow"] = flow.float()

    assert case("c5_flowmatch_scheduler", change) == "held (parity)"


def test_low_precision_is_compared_over_all_numbers():
    """One number that rounded far from ours is no failure, nor is other rounding of all of them."""
    exact = torch.randn(60, 120)
    want, ours = (exact * (1 + 0.04 * torch.randn(60, 120)) for _ in range(2))
    apart = ours.clone()
    apart[3, 7] += 1
    wrong = ours + 0.15 * exact
    for got, kind in ((ours, "held"), (apart, "held"), (wrong, "failed")):
        report = Report(Case(name="case", group=8, meta={}, tensors={}, weights={}))
        check_rounded(report, "low", got, want, exact)
        assert report.verdict().kind == kind
