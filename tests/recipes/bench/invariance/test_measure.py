"""The table of a tiny model: every operation is in it."""

import pytest
import torch
from torch import nn

from longlive_recipes.bench.invariance import operations
from longlive_recipes.bench.invariance.measure import PARTS
from longlive_recipes.bench.invariance.splits import examine
from longlive_recipes.bench.preset.models import preset_of
from longlive_recipes.bench.preset_options import InvarianceOptions
from longlive_recipes.bench.run import prepare

CPU = torch.device("cpu")


def test_a_record_has_a_row_for_each_operation():
    prepared = prepare("invariance", InvarianceOptions(preset="tiny", device="cpu"))
    assert prepared.stem == "tiny_invariance_cpu"
    record = prepared.measure()
    parts = record["parts"]
    assert list(parts) == list(PARTS)
    rows = {name: row["bits"] for part in parts.values() for name, row in part.items()}
    assert not [name for name, bits in rows.items() if "does not run" in bits]
    for name in ("layer norm", "RMS norm", "gate and residual", "rotation", "rounding to FP8"):
        assert rows[name] == "same bits for any number", name
    assert any(name.startswith("sdpa") and name.endswith("by heads") for name in rows)
    assert sum(name.startswith("3x3x3") for name in rows) == 5
    assert "| layer norm |" in prepared.table(record)


def test_an_operation_of_some_things_is_that_of_all():
    """To rounding: what is compared bit by bit is the same numbers."""
    preset = preset_of("tiny", CPU)
    for splits in PARTS.values():
        for split in splits(preset, CPU):
            whole = split.compute(0, split.total)
            some = split.compute(1, split.total) if "whole decoder" not in split.name else whole
            start = split.total - some.shape[split.dim]
            want = whole.narrow(split.dim, start, some.shape[split.dim])
            torch.testing.assert_close(some.float(), want.float(), rtol=1e-4, atol=1e-4)


def test_linears_are_compared_in_every_shape_of_the_model():
    preset = preset_of("tiny", CPU)
    names = [split.name for split in operations.products(preset, CPU)]
    shapes = {tuple(reversed(m.weight.shape)) for m in _linears(preset)}
    for inner, outer in shapes - {(16, 64), (64, 64)}:
        assert any(f"{inner} to {outer}" in name for name in names)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="the bounds are those of a Hopper GPU",
)
def test_the_bounds_that_ranks_rely_on_hold():
    """Of the products that ranks split, and of attention by heads, at the 5B's sizes."""
    device = torch.device("cuda")
    preset = preset_of("5b", device)
    for split in operations.products(preset, device):
        if split.name.startswith(("attention", "feed")):
            bound = examine(split).bound
            assert bound is not None and bound <= 64, split.name
    for split in operations.attentions(preset, device):
        if split.things == "heads":
            assert examine(split).bound == 1, split.name


def _linears(preset) -> list[nn.Linear]:
    from longlive_models.wan import WanTransformer

    with torch.device("meta"):
        model = WanTransformer(preset.spec.transformer)
    return [m for m in model.modules() if isinstance(m, nn.Linear)]
