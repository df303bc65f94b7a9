"""The random Hadamard transform: the matrix of its definition, and its inverse."""

import pytest
import torch
from hypothesis import given

from longlive_core.nvfp4 import rotate, unrotate
from longlive_core.nvfp4.hadamard import SIGNS
from longlive_core.testing import assert_bitwise_equal
from tests.core.nvfp4.matrices import matrices

WALSH = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(16)] for i in range(16)])
H = torch.diag(torch.tensor(SIGNS, dtype=torch.float32)) @ WALSH / 4


def test_it_is_the_matrix_of_its_definition_and_orthogonal():
    assert_bitwise_equal(rotate(torch.eye(16)), H)
    assert_bitwise_equal(rotate(torch.eye(16, dtype=torch.bfloat16)), H.bfloat16())
    assert torch.equal(H @ H.t(), torch.eye(16))


@given(matrices(max_rows=8, step=16))
def test_it_multiplies_every_block_and_comes_back(x):
    got = rotate(x)
    assert got.dtype == x.dtype
    exact = (x.double().view(-1, 16) @ H.double()).view(x.shape)
    kind = torch.finfo(x.dtype)
    tolerance = 4 * kind.eps * (x.double().abs().max() + kind.smallest_normal)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=float(tolerance))
    torch.testing.assert_close(
        unrotate(got).double(), x.double(), rtol=0, atol=float(2 * tolerance)
    )


def test_a_product_along_the_rotated_dimension_is_unchanged():
    a, b = torch.randn(5, 64), torch.randn(7, 64)
    torch.testing.assert_close(rotate(a) @ rotate(b).t(), a @ b.t(), rtol=1e-5, atol=1e-5)


def test_it_spreads_an_outlier():
    x = torch.zeros(1, 16)
    x[0, 3] = 8.0
    assert_bitwise_equal(rotate(x).abs(), torch.full((1, 16), 2.0))


def test_its_gradient_is_the_inverse():
    x = torch.randn(3, 32, requires_grad=True)
    upstream = torch.randn(3, 32)
    rotate(x).backward(upstream)
    torch.testing.assert_close(x.grad, unrotate(upstream))


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"divisible by 16, got shape \(2, 24\).*Pad"):
        rotate(torch.zeros(2, 24))
