"""Rounding to E2M1, to E4M3, and the random numbers of stochastic rounding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.nvfp4.format import E2M1_VALUES
from longlive_core.nvfp4.rounding import (
    decode_e2m1,
    nearest_magnitude,
    random_uniform,
    round_nearest,
    round_stochastic,
    to_e4m3,
)
from longlive_core.testing import assert_bitwise_equal

GRID = torch.tensor(E2M1_VALUES, dtype=torch.float64)


def pack(codes):
    return codes[..., ::2] | codes[..., 1::2] << 4


@pytest.mark.parametrize(
    ("value", "stored"),
    [(0.25, 0), (0.75, 1), (1.25, 1), (1.75, 2), (2.5, 2), (3.5, 4), (5.0, 4), (9.0, 6)],
)
def test_ties_go_to_the_even_code_and_beyond_six_is_six(value, stored):
    plus, minus = round_nearest(torch.tensor([value, -value])).tolist()
    assert E2M1_VALUES[plus] == stored
    assert minus == plus + 8


def test_nearest_is_nearest_everywhere():
    x = torch.linspace(-7, 7, 40001)
    codes = round_nearest(x)
    values = decode_e2m1(pack(codes.view(1, -1)[:, :-1]))[0]
    distance = (x[:-1, None].double().abs() - GRID).abs()
    best = distance.min(dim=1)
    assert torch.equal((values.double().abs() - x[:-1].abs().double()).abs(), best.values)
    lone = (distance == best.values[:, None]).sum(1) == 1
    assert torch.equal((codes[:-1] & 7)[lone].long(), best.indices[lone])


def test_neighbors_of_a_midpoint_go_to_their_own_side():
    middle = (GRID[:-1] + GRID[1:]).float() / 2
    below, above = (
        torch.nextafter(middle, torch.zeros(())),
        torch.nextafter(middle, torch.ones(()) * 9),
    )
    assert torch.equal(nearest_magnitude(below), GRID[:-1].float())
    assert torch.equal(nearest_magnitude(above), GRID[1:].float())


def test_signs_of_zero_and_values_that_are_none():
    x = torch.tensor([0.0, -0.0, -0.1, -1e-45, float("inf"), -float("inf"), float("nan")])
    assert round_nearest(x).tolist() == [0, 0, 8, 8, 7, 15, 0]
    assert round_stochastic(x, torch.full_like(x, 0.9)).tolist() == [0, 0, 8, 8, 7, 15, 0]


def test_every_byte_decodes_to_its_two_values():
    decoded = decode_e2m1(torch.arange(256, dtype=torch.uint8).view(16, 16)).view(256, 2)
    for byte in range(256):
        for nibble, value in zip((byte & 15, byte >> 4), decoded[byte].tolist(), strict=True):
            sign = -1.0 if nibble & 8 else 1.0
            assert value == sign * E2M1_VALUES[nibble & 7]
            assert torch.tensor(value).signbit() == bool(nibble & 8)


def test_e4m3_rounds_to_nearest_even_and_saturates():
    bytes_ = torch.arange(0x7F, dtype=torch.uint8)
    values = bytes_.view(torch.float8_e4m3fn).float()
    assert_bitwise_equal(to_e4m3(values).view(torch.uint8), bytes_)
    middles = (values[:-1] + values[1:]) / 2
    even = bytes_[:-1] + (bytes_[:-1] & 1)
    assert_bitwise_equal(to_e4m3(middles).view(torch.uint8), even)
    beyond = to_e4m3(torch.tensor([449.0, 464.0, 465.0, 1e30, float("inf"), float("nan")]))
    assert beyond.view(torch.uint8).tolist() == [0x7E] * 5 + [0x7F]


def test_stochastic_rounding_keeps_the_grid_and_brackets_the_rest():
    grid = GRID.float()
    for uniform in (0.0, 0.5, 1 - 2**-24):
        assert round_stochastic(grid, torch.full_like(grid, uniform)).tolist() == list(range(8))
    x = torch.tensor([0.1, 1.3, 2.9, 5.9, 7.0])
    assert round_stochastic(x, torch.zeros(5)).tolist() == [1, 3, 5, 7, 7]
    assert round_stochastic(x, torch.full((5,), 1 - 2**-24)).tolist() == [0, 2, 4, 6, 7]


def test_stochastic_rounding_goes_up_with_the_probability_that_keeps_the_mean():
    """Exactly: of n equally spaced uniforms, the share below the fraction."""
    n = 4096
    uniform = (torch.arange(n) / n).expand(6, n)
    x = torch.tensor([0.125, 0.75, 1.125, 2.25, 3.5, 4.5])[:, None].expand(6, n)
    values = decode_e2m1(pack(round_stochastic(x.contiguous(), uniform)))
    torch.testing.assert_close(values.double().mean(1), x[:, 0].double(), rtol=0, atol=0)


def test_random_numbers_are_philox():
    """The known answer of Philox4x32-10 for counter 0 and key 0 (Salmon et al., SC11)."""
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert random_uniform(torch.tensor(0), 4).tolist() == [(w >> 8) / 2**24 for w in words]


@given(st.integers(0, 2**63 - 1), st.integers(1, 50), st.integers(0, 50))
def test_a_random_number_depends_on_seed_and_index_alone(seed, count, more):
    seed = torch.tensor(seed)
    short, long = random_uniform(seed, count), random_uniform(seed, count + more)
    assert torch.equal(short, long[:count])
    assert ((long >= 0) & (long < 1)).all()
    assert not torch.equal(random_uniform(seed ^ (1 << 40), 50), random_uniform(seed, 50))


def test_random_numbers_are_uniform():
    sample = random_uniform(torch.tensor(5), 100_000).double()
    assert abs(sample.mean() - 0.5) < 5 * (1 / 12 / 100_000) ** 0.5
    counts = torch.histc(sample.float(), 100, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * (2 * 99) ** 0.5
