"""Packed bases in four and eight bits over two ranks have the numbers of one rank."""

import pytest

from longlive_core.float8 import Float8Config
from longlive_core.nvfp4 import LinearConfig
from tests.processes import Ranks
from tests.recipes.training.four_bits import W4A4, adapter_step


@pytest.mark.parametrize("kind", ["data", "sequence"])
@pytest.mark.parametrize(
    ("base", "checkpointing"),
    [(LinearConfig(), False), (W4A4, False), (W4A4, "attention"), (Float8Config(), "attention")],
)
def test_adapters_on_a_packed_base_learn_as_on_one_rank(ranks: Ranks, kind, base, checkpointing):
    """Under FSDP2, whose ranks have other clips, and under Balanced SP, with other frames."""
    ((one), *_) = ranks(1, adapter_step, kind, base, checkpointing)
    for many in ranks(2, adapter_step, kind, base, checkpointing):
        assert many.keys() == one.keys()
        assert len(many) > 10
        for name, wanted in one.items():
            assert wanted.norm() > 0, name
            error = (many[name] - wanted).norm() / wanted.norm()
            assert error <= 1e-5, f"{name}: {error:.1e}"
