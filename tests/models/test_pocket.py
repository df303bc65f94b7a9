"""The shipped model: one beginning for videos of all lengths, the same weights in fp32 and bf16."""

import pytest

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.wan import POCKET

PROMPT = "a red circle moves right on a navy background"
QUICK = {"seed": 7, "steps": 1, "guidance": 1.0}


@pytest.fixture(scope="module")
def pocket():
    return LongLivePipeline.from_pretrained("pocket", device="cpu")


def test_it_is_the_preset(pocket):
    assert pocket.spec.transformer == POCKET


def test_a_longer_video_begins_with_a_shorter_one(pocket):
    short = pocket(PROMPT, seconds=29 / 12, **QUICK).frames  # one block
    longer = pocket(PROMPT, seconds=31 / 12, **QUICK).frames  # and a little of the next
    assert (tuple(short.shape), len(longer)) == ((29, 128, 128, 3), 31)
    assert_bitwise_equal(longer[:29], short)


def test_its_files_are_bf16_so_that_precision_changes_nothing_on_a_cpu(pocket):
    rounded = LongLivePipeline.from_pretrained("pocket", device="cpu", weights="bf16")
    for name, parameter in pocket.transformer.named_parameters():
        assert_bitwise_equal(rounded.transformer.get_parameter(name), parameter)
