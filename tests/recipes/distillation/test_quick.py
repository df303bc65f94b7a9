"""The copy of a student that makes the critic's videos: whose weights it has, and when."""

from dataclasses import replace

import pytest
import torch

from longlive_core.nvfp4 import TrainingConfig
from longlive_core.testing import assert_bitwise_equal
from longlive_models.lora import add_lora
from longlive_models.lora_config import LoRAConfig
from longlive_recipes.configs.distill_dmd import dmd_5b, dmd_pocket, dmd_tiny
from longlive_recipes.distillation.adapters import merged_weights
from longlive_recipes.distillation.quick import QuickStudent
from longlive_recipes.training.parallel import Parallel
from tests.models.wan.tiny import tiny_model

WIDE = replace(dmd_tiny().run, precision="32-true")


@pytest.mark.parametrize(
    ("config", "serves"),
    [
        (dmd_pocket(), True),
        (replace(dmd_pocket(), lora_rank=4), True),
        (replace(dmd_pocket(), lora_rank=4, base="nvfp4"), False),
        (dmd_5b(), False),
        (replace(dmd_pocket(), quantized=TrainingConfig()), False),
        (replace(dmd_pocket(), run=WIDE), False),
        (replace(dmd_pocket(), parallel=Parallel(sequence=2)), False),
        (replace(dmd_pocket(), parallel=Parallel(data=2)), True),
    ],
    ids=["all", "adapters", "packed", "5b", "four bits", "float32", "sequence", "data"],
)
def test_it_serves_where_float32_weights_compute_in_bfloat16(config, serves):
    assert QuickStudent.serves(config) == serves


@torch.no_grad()
@pytest.mark.parametrize("rank", [0, 4])
def test_it_follows_the_student(rank):
    student = tiny_model().float()
    if rank:
        student.requires_grad_(False)
        add_lora(student, replace(LoRAConfig(), rank=rank, alpha=4.0))
        for name, weight in student.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    quick = QuickStudent(student)

    def check():
        wanted = merged_weights(student)
        found = quick.network.state_dict()
        assert found.keys() == wanted.keys()
        for name, tensor in found.items():
            assert_bitwise_equal(tensor, wanted[name].bfloat16(), name)
        assert not any(p.requires_grad for p in quick.network.parameters())

    check()
    before = {name: tensor.clone() for name, tensor in quick.network.state_dict().items()}
    trained = "lora_B" if rank else "weight"
    for name, weight in student.named_parameters():
        if trained in name:
            weight.add_(1.0)
    for name, tensor in quick.network.state_dict().items():
        assert_bitwise_equal(tensor, before[name], name)  # until it is told
    quick.changed()
    check()
    moved = [not torch.equal(t, before[n]) for n, t in quick.network.state_dict().items()]
    assert any(moved)
