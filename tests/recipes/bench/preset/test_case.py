"""Quantiles of times, and the plain path that each configuration is compared with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_recipes.bench.preset.case import quantile
from longlive_recipes.bench.preset.variants import (
    Variant,
    decoding_apart,
    main_variants,
    other_variants,
)


@given(st.lists(st.floats(0, 100), min_size=1))
def test_quantiles_go_from_the_least_to_the_most(values):
    assert quantile(values, 0) == min(values)
    assert quantile(values, 1) == max(values)
    assert min(values) <= quantile(values, 0.5) <= quantile(values, 0.9) <= max(values)


def test_a_quantile_lies_between_the_two_nearest_values():
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.5) == pytest.approx(2.5)
    assert quantile([1.0, 2.0], 0.9) == pytest.approx(1.9)


def test_a_lossless_one_is_compared_with_its_own_form_of_cache():
    lossless = Variant(name="one", tier="lossless", kv_cache="nvfp4", steps=2)
    assert lossless.reference.name == "reference, nvfp4 cache, 2 steps"
    assert (lossless.reference.kv_cache, lossless.reference.steps) == ("nvfp4", 2)
    high = Variant(name="one", tier="high", kv_cache="nvfp4")
    assert (high.reference.name, high.reference.kv_cache) == ("reference", "bf16")


def test_rows_of_fewer_steps_and_bits_stand_beside_each_tier():
    rows = list(other_variants(("plain", "lossless", "high")))
    assert [row.name for row in rows if row.beside == "lossless"] == [
        "lossless, 2 steps",
        "lossless, NVFP4 cache",
    ]
    assert [row.name for row in rows if row.whole] == ["NVFP4 weights and cache"]
    assert all(row.most_error == 0 for row in rows if row.tier == "lossless")
    assert [one.name for one in main_variants(("high",), True)] == ["plain", "high"]
    apart = decoding_apart(main_variants(("high",), False)[0], "device:cuda:1")
    assert (apart.name, apart.lane) == ("high, decoding on the second GPU", "device:cuda:1")
