"""The checkers see what they are there to see."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.testing import assert_bitwise_equal, nan_filled_empty, ulp_distance

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    "dtype", [*FLOATS, torch.float64, torch.int64, torch.bool, torch.complex64, torch.uint8]
)
def test_equal_tensors_pass(dtype):
    x = torch.arange(6).reshape(2, 3).to(dtype)
    assert_bitwise_equal(x, x.clone())
    assert_bitwise_equal(x.T, x.T.contiguous())


def test_the_first_difference_is_named_with_both_values():
    x = torch.zeros(2, 3)
    y = x.clone()
    y[1, 1:] = 2.5
    with pytest.raises(AssertionError, match=r"keys differ at 2 of 6.*\(1, 1\): got 2.5, want 0.0"):
        assert_bitwise_equal(y, x, "keys")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.tensor([float("nan")]), torch.tensor([0.0])),
    ],
)
def test_what_is_not_the_same_bytes_fails(a, b):
    with pytest.raises(AssertionError):
        assert_bitwise_equal(a, b)


def test_the_same_nan_is_equal():
    assert_bitwise_equal(torch.tensor([float("nan")]), torch.tensor([float("nan")]))


@given(st.sampled_from(FLOATS), st.floats(-100, 100, width=16), st.integers(0, 40))
def test_ulps_count_neighbors(dtype, value, steps):
    start = torch.tensor([value]).to(dtype)
    moved = start
    for _ in range(steps):
        moved = torch.nextafter(moved, torch.full_like(moved, float("inf")))
    assert ulp_distance(start, moved).item() == steps
    assert ulp_distance(moved, start).item() == steps


def test_zeros_are_one_number_and_its_neighbors_straddle_it():
    assert ulp_distance(torch.tensor([0.0]), torch.tensor([-0.0])).item() == 0
    tiny = torch.tensor([1e-45])
    assert ulp_distance(tiny, -tiny).item() == 2


def test_ulp_distance_refuses_what_has_no_neighbors():
    with pytest.raises(ValueError, match="torch.float64.*Cast one"):
        ulp_distance(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="met a NaN"):
        ulp_distance(torch.tensor([float("nan")]), torch.tensor([0.0]))


def test_fresh_memory_is_nan_within_and_only_within():
    x = torch.zeros(3)
    with nan_filled_empty():
        fresh = [
            torch.empty(3),
            torch.empty_like(x),
            x.new_empty(3),
            torch.empty_strided((3,), (1,)),
            torch.empty(3, dtype=torch.bfloat16),
            torch.empty(3, requires_grad=True),
        ]
        counts = torch.empty(3, dtype=torch.int64)
    assert all(bool(y.isnan().all()) for y in fresh)
    assert counts.dtype == torch.int64
    assert not torch.zeros_like(x).isnan().any()
