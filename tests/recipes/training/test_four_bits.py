"""Packed bases and products in four bits over two ranks have the numbers of one rank."""

import pytest

from tests.processes import Ranks
from tests.recipes.training.four_bits import adapter_step


@pytest.mark.parametrize("kind", ["data", "sequence"])
@pytest.mark.parametrize(
    ("inputs_too", "checkpointing"), [(False, False), (True, False), (True, "attention")]
)
def test_adapters_on_a_packed_base_learn_as_on_one_rank(
    ranks: Ranks, kind, inputs_too, checkpointing
):
    """Under FSDP2, whose ranks have other clips, and under Balanced SP, with other frames."""
    ((one), *_) = ranks(1, adapter_step, kind, inputs_too, checkpointing)
    for many in ranks(2, adapter_step, kind, inputs_too, checkpointing):
        assert many.keys() == one.keys()
        assert len(many) > 10
        for name, wanted in one.items():
            assert wanted.norm() > 0, name
            error = (many[name] - wanted).norm() / wanted.norm()
            assert error <= 1e-5, f"{name}: {error:.1e}"
