"""The 128 x 4 swizzle against its formula, both ways."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.nvfp4 import swizzle, unswizzle
from longlive_core.nvfp4.scale_layout import swizzled_size
from longlive_core.testing import assert_bitwise_equal


def random_scales(rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.randint(0, 256, (rows, cols), generator=generator, dtype=torch.uint8)
    return scales.view(torch.float8_e4m3fn)


def offset(r, c, cols):
    tile = (r // 128) * -(-cols // 4) + c // 4
    return tile * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4


@pytest.mark.parametrize(("rows", "cols"), [(128, 4), (1, 1), (130, 6), (256, 8), (300, 3)])
def test_every_scale_is_where_the_formula_says_and_the_rest_is_zero(rows, cols):
    scales = random_scales(rows, cols)
    flat = swizzle(scales).view(torch.uint8)
    height, width = swizzled_size(rows, cols)
    assert flat.shape == (height * width,)
    where = [offset(r, c, cols) for r in range(rows) for c in range(cols)]
    assert len(set(where)) == rows * cols
    assert_bitwise_equal(flat[where].view(rows, cols), scales.view(torch.uint8))
    padding = torch.ones_like(flat).scatter(0, torch.tensor(where), 0)
    assert not (flat * padding).any()


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 99))
def test_there_and_back(rows, cols, seed):
    scales = random_scales(rows, cols, seed)
    assert_bitwise_equal(unswizzle(swizzle(scales), rows, cols), scales)


def test_tiles_may_come_as_a_matrix():
    scales = random_scales(130, 6)
    matrix = swizzle(scales).view(256, 8)
    assert_bitwise_equal(unswizzle(matrix, 130, 6), scales)


def test_sizes_without_numbers_have_an_order_too():
    scales = torch.empty(130, 6, dtype=torch.float8_e4m3fn, device="meta")
    flat = swizzle(scales)
    assert flat.shape == (2048,) and flat.is_meta
    assert unswizzle(flat, 130, 6).shape == (130, 6)


def test_a_wrong_number_of_scales_is_refused():
    with pytest.raises(ValueError, match="130 rows of 6 block scales needs 2048.*got 780"):
        unswizzle(random_scales(130, 6), 130, 6)
