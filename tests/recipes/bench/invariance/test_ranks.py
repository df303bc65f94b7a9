"""Blocks over ranks beside one rank's: latents, and keys and values as the cache shows them."""

import pytest
import torch

from longlive_core.sequence_parallel import SequenceGroup
from longlive_recipes.bench.invariance import ranks as over_ranks
from longlive_recipes.bench.preset.models import preset_of
from longlive_recipes.bench.preset_options import InvarianceOptions
from tests.processes import Ranks

CPU = torch.device("cpu")


def test_a_digest_tells_the_head_whose_bits_differ():
    x = torch.randn(1, 6, 4, 8)
    other = x.clone()
    other[0, 3, 2, 5] = torch.nextafter(other[0, 3, 2, 5], torch.tensor(9.0))
    assert (over_ranks.digest(x) != over_ranks.digest(other)).tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert torch.equal(over_ranks.digest(x), over_ranks.digest(x.clone()))


def test_blocks_over_two_ranks_have_the_bytes_of_one(ranks: Ranks):
    for answer in ranks(2, compared_on_rank):
        for name, found in answer.items():
            if isinstance(found, str):
                assert "CUDA" in found, name
            else:
                assert found["latents"] and not found["other_heads"], (name, found)


def compared_on_rank(process_group) -> dict:
    """On a CPU a product of few rows has other bits than one of many: these have enough."""
    torch.set_num_threads(1)
    return over_ranks.compare_on_rank(SequenceGroup.of(process_group), CPU, "tiny", None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="two ranks have a GPU each, or share one")
def test_blocks_of_the_5bs_layers_over_two_ranks_have_the_bytes_of_one():
    told = InvarianceOptions(preset="5b", device="cuda", ranks=2, layers=2)
    rows = over_ranks.compare_ranks(told, preset_of("5b", torch.device("cuda")), "cuda")
    assert rows["bf16"] == {"latents": "same bytes", "keys_and_values": "same bytes"}
    compared = [row for row in rows.values() if "keys_and_values" in row]
    assert all(set(row.values()) == {"same bytes"} for row in compared), rows
