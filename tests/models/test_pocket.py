"""The shipped model: one beginning for videos of all lengths, four bits decoded or not."""

import json

import pytest

from longlive_core.nvfp4 import NVFP4Linear
from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.checkpoints.hub import INDEX, resolve
from longlive_models.precision import stored_precision
from longlive_models.wan import POCKET

PROMPT = "a red circle moves right on a navy background"
REFERENCE = "7dfb448bacc10d452f3406498454f75bf32f4b6affb3cd58a8ac045cbbf9ab40"
SHIPPED = "fc874ab5de3816760cb12aab5c33f967fa9bd375a38bd07aa0b82ef4c86b228f"
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


def test_it_is_packed_and_names_the_model_that_it_was_packed_from():
    assert stored_precision(resolve("pocket")) == "nvfp4, four_over_six_mse"
    index = json.loads((resolve("pocket") / INDEX).read_text())
    assert index["packed_from_sha256"] == REFERENCE
    assert REFERENCE in (resolve("pocket") / "README.md").read_text()


def test_its_card_names_the_files_that_ship():
    assert fingerprint(resolve("pocket")) == SHIPPED
    assert SHIPPED in (resolve("pocket") / "README.md").read_text()


def test_computing_with_packed_weights_is_computing_with_the_decoded_ones(pocket):
    """On a CPU they are decoded, and a packed layer decodes to the same values."""
    packed = LongLivePipeline.from_pretrained("pocket", device="cpu", weights="nvfp4")
    kinds = [type(layer) for layer in packed.transformer.modules()]
    assert kinds.count(NVFP4Linear) == 71
    seconds = 5 / 12
    assert_bitwise_equal(
        packed(PROMPT, seconds=seconds, **QUICK).frames,
        pocket(PROMPT, seconds=seconds, **QUICK).frames,
    )


def test_bf16_on_request_is_the_decoded_weights_rounded_once(pocket):
    rounded = LongLivePipeline.from_pretrained("pocket", device="cpu", weights="bf16")
    for name, parameter in pocket.transformer.named_parameters():
        assert_bitwise_equal(rounded.transformer.get_parameter(name), parameter.bfloat16().float())
