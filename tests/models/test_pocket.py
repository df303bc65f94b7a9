"""The shipped model: whole, small, drawing what it is asked to, with one beginning a video."""

import pytest
import torch

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.hub import EMBEDDED
from longlive_models.wan import POCKET

PROMPT = "a red circle moves right on a navy background"
QUICK = {"seed": 7, "steps": 2}


@pytest.fixture(scope="module")
def pocket():
    return LongLivePipeline.from_pretrained("pocket", device="cpu")


@pytest.fixture(scope="module")
def block(pocket):
    """The frames of one block."""
    return pocket(PROMPT, seconds=29 / 12, **QUICK).frames


def test_it_is_the_preset_and_small(pocket):
    assert pocket.spec.transformer == POCKET
    files = [file for file in EMBEDDED["pocket"].rglob("*") if file.is_file()]
    assert max(file.stat().st_size for file in files) < 16 * 2**20
    assert sum(file.stat().st_size for file in files) < 40e6


def test_it_draws_what_it_is_asked_to(block):
    assert tuple(block.shape) == (29, 128, 128, 3)
    last = block[-1].float()
    background = torch.tensor([18.0, 28.0, 84.0])
    edge = torch.cat([last[0], last[-1]]).median(0).values
    assert (edge - background).abs().max() < 25
    red = (last[..., 0] > 150) & (last[..., 1:].amax(-1) < 110)
    assert 0.01 < red.float().mean() < 0.3


def test_a_longer_video_begins_with_a_shorter_one(pocket, block):
    longer = pocket(PROMPT, seconds=31 / 12, **QUICK).frames
    assert len(longer) == 31
    assert_bitwise_equal(longer[:29], block)


def test_its_files_are_bf16_so_that_precision_changes_nothing_on_a_cpu(pocket):
    rounded = LongLivePipeline.from_pretrained("pocket", device="cpu", weights="bf16")
    for name, parameter in pocket.transformer.named_parameters():
        assert_bitwise_equal(rounded.transformer.get_parameter(name), parameter)
