"""What fits on a GPU: sizes that were counted on the meta device, and tables by hand."""

from dataclasses import replace

import pytest

from longlive_models.checkpoints.folder import unfilled
from longlive_models.wan import WAN_5B, WanTransformer
from longlive_recipes.configs.distill_cm import cm_5b
from longlive_recipes.configs.distill_dmd import dmd_5b, dmd_pocket
from longlive_recipes.distillation.adapters import share_base
from longlive_recipes.distillation.memory import (
    GB,
    Needs,
    adapter_parameters,
    needs_of,
    what_fits,
)

ADAPTER = 322_437_120
"""Of rank 128 on the ten linears of every block, as the original has it."""


def test_three_networks_of_five_billion_are_made_of_one_without_memory():
    with unfilled():
        base = WanTransformer(WAN_5B)
        made = share_base(base, dmd_5b().lora, kept="bf16")
    trains = [
        sum(p.numel() for p in network.parameters() if p.requires_grad)
        for network in (made.student, made.critic, made.teacher)
    ]
    assert trains == [ADAPTER, ADAPTER, 0]
    assert all(p.is_meta for p in made.critic.parameters())
    frozen = {id(p) for p in made.teacher.parameters()}
    assert len(frozen) == len(list(base.parameters())) - 600  # two matrices beside 300 linears
    for network in (made.student, made.critic):
        assert frozen <= {id(p) for p in network.parameters()}


def test_what_does_not_depend_on_the_batch_is_counted():
    assert adapter_parameters(dmd_5b()) == ADAPTER
    fixed = list(needs_of(dmd_5b(), 1).fixed.values())
    assert fixed[0] == 2 * WAN_5B.parameters
    assert fixed[1] == 2 * 12 * ADAPTER
    assert fixed[2] == 2 * 4 * ADAPTER
    whole = replace(dmd_5b(), lora_rank=0, base="fp32")
    assert sum(needs_of(whole, 1).fixed.values()) == (4 + 24 + 8 + 2) * WAN_5B.parameters


def test_the_original_step_fits_one_video_on_each_gpu_of_80_gb():
    rows = what_fits(dmd_5b()).splitlines()
    assert [row.split()[1:] for row in rows[2:6]] == [
        ["1", "1", "2"],
        ["2", "2", "4"],
        ["4", "4", "8"],
        ["8", "8", "16"],
    ]
    assert all(row.startswith("#") for row in rows)


def test_a_packed_base_takes_less_and_longer_scores_more():
    plain, packed = needs_of(dmd_5b(), 1), needs_of(replace(dmd_5b(), base="nvfp4"), 1)
    assert sum(packed.fixed.values()) < sum(plain.fixed.values()) - 6 * GB
    longer = needs_of(replace(dmd_5b(), scores="given_past"), 1)
    name = "the critic's update"
    assert longer.each[name] == pytest.approx(2 * plain.each[name])
    once = needs_of(replace(dmd_5b(), replay=False), 1)
    assert once.each["the student's update"] > 5 * plain.each["the student's update"]


def test_all_weights_are_shared_out_in_consistency():
    assert needs_of(cm_5b(), 1).batch(80) == 0
    assert needs_of(cm_5b(), 8).batch(141) == 1
    assert "nothing" in what_fits(cm_5b())


def test_the_pocket_fits_its_batch():
    made = dmd_pocket()
    assert needs_of(made, 1).batch(80) > made.phases[0].batch


def test_a_batch_is_what_is_left_over_the_largest_part():
    needs = Needs(fixed={"a": 10 * GB}, each={"b": 5 * GB, "c": 2 * GB})
    assert needs.batch(50) == 7  # 0.92 * 50 - 10 = 36
    assert needs.batch(10) == 0
