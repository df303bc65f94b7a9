"""Byte for byte what other quantizers write, over a million blocks of each rule."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, quantize, scale_rules
from tests.checks.group_13 import added_one_after_another
from tests.core.nvfp4.matrices import make
from tests.core.nvfp4.other_quantizers import Quantizer, fouroversix, transformer_engine

pytestmark = pytest.mark.slow

BLOCKS = 1_000_000
ROWS, COLS = 512, 800  # 25,600 blocks
SQUARES = [QuantizeConfig(rule=rule, block=(16, 16)) for rule in ScaleRule if rule.adaptive]
OF_TRANSFORMER_ENGINE = [
    QuantizeConfig(),
    QuantizeConfig(block=(16, 16)),
    *(
        QuantizeConfig(rule=rule, bound=bound)
        for rule in (ScaleRule.FOUR_OVER_SIX_MSE, ScaleRule.FOUR_OVER_SIX_MAE)
        for bound in rule.bounds
    ),
    *SQUARES[:2],
]
OF_FOUROVERSIX = [*(QuantizeConfig(rule=rule) for rule in ScaleRule if rule.adaptive), *SQUARES]


def drawn(kinds: tuple[str, ...]) -> Iterator[Tensor]:
    """A million blocks of bfloat16 numbers, and more, in matrices with an amax each."""
    for seed in range(-(-BLOCKS * 16 // (ROWS * COLS))):
        yield make(kinds[seed % len(kinds)], ROWS, COLS, seed).bfloat16()


def blocks_apart(x: Tensor, config: QuantizeConfig, other: Quantizer) -> Tensor:
    """Rows and blocks in which a code or the scale differs; whose scale is a normal number."""
    q = quantize(x, config, backend="reference")
    codes, scales = other(x, config)
    ours = q.block_scales.view(torch.uint8)
    apart = (q.codes != codes).unflatten(1, (-1, 8)).any(-1) | (ours != scales)
    return apart & (q.block_scales.float() >= 2**-6)


@pytest.mark.parametrize("config", OF_TRANSFORMER_ENGINE, ids=str)
def test_transformer_engine_writes_the_same_bytes(config, monkeypatch):
    """Adding errors as it does; the original's quantizer, which is followed, adds otherwise."""
    other = transformer_engine(monkeypatch)
    monkeypatch.setattr(scale_rules, "ordered_sum", added_one_after_another)
    for x in drawn(("normal", "ties", "one outlier", "row scales")):
        assert not blocks_apart(x, config, other).any()


@pytest.mark.parametrize("config", OF_TRANSFORMER_ENGINE, ids=str)
def test_the_order_of_addition_decides_few_blocks(config, monkeypatch):
    """Of normal numbers in bfloat16 fewer than 1 in 10,000 choose as TE's reference does not."""
    other = transformer_engine(monkeypatch)
    apart = sum(int(blocks_apart(x, config, other).sum()) for x in drawn(("normal",)))
    assert apart < (BLOCKS / 10_000 if config.rule.adaptive else 1)


@pytest.mark.parametrize("config", OF_FOUROVERSIX, ids=str)
def test_the_originals_quantizer_writes_the_same_bytes(config):
    other = fouroversix()
    for x in drawn(("normal", "ties", "sparse", "one outlier")):
        assert not blocks_apart(x, config, other).any()
