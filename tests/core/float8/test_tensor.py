"""FP8 matrices: what rounding keeps, and what stands at the edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.float8 import Scaling, dequantize, quantize
from longlive_core.float8.tensor import scale_shape


@st.composite
def matrices(draw):
    """A matrix of any size and magnitude, perhaps with an outlier or a row of zeros."""
    rows, cols = draw(st.integers(1, 140)), draw(st.integers(1, 300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(rows, cols, generator=generator) * 10.0 ** draw(st.integers(-30, 30))
    if draw(st.booleans()):
        x[0, 0] *= 1e4
    if draw(st.booleans()):
        x[-1] = 0
    return x


@given(matrices(), st.sampled_from(Scaling))
def test_the_error_is_half_a_step_of_e4m3(x, scaling):
    q = quantize(x, scaling)
    back = dequantize(q)
    assert back.shape == x.shape
    block = {"row": (1, x.shape[1]), "1x128": (1, 128), "128x128": (128, 128)}[scaling.value]
    for row in range(0, x.shape[0], block[0]):
        for col in range(0, x.shape[1], block[1]):
            part = x[row : row + block[0], col : col + block[1]]
            got = back[row : row + block[0], col : col + block[1]]
            # three bits behind the point, and subnormals of 2 ** -9 of a block whose top is 448
            allowed = part.abs() * 2.0**-4 + part.abs().amax() / 448 * 2.0**-10
            assert ((got - part).abs() <= allowed * (1 + 1e-5)).all()


@given(matrices(), st.sampled_from(Scaling))
def test_the_largest_number_of_a_block_is_kept(x, scaling):
    back = dequantize(quantize(x, scaling))
    assert back.abs().amax() == pytest.approx(x.abs().amax().item(), rel=1e-6)


@pytest.mark.parametrize("scaling", Scaling)
def test_zeros_and_what_is_not_finite(scaling):
    assert dequantize(quantize(torch.zeros(3, 20), scaling)).eq(0).all()
    x = torch.ones(2, 256)
    for bad in (torch.nan, torch.inf):
        x[0, 0] = bad
        back = dequantize(quantize(x, scaling))
        assert back[0, :128].isnan().all()
        assert back[1, 128:].eq(1).all()


@pytest.mark.parametrize(
    ("scaling", "shape"),
    [(Scaling.ROW, (3, 1)), (Scaling.ROW_BLOCK, (3, 2)), (Scaling.SQUARE, (1, 2))],
)
def test_a_block_shares_one_scale(scaling, shape):
    x = torch.randn(3, 130)
    q = quantize(x.bfloat16(), scaling)
    assert q.scales.shape == shape
    assert q.codes.dtype == torch.float8_e4m3fn
    x = x.bfloat16().float()
    last = {"row": x[0], "1x128": x[0, 128:], "128x128": x[:, 128:]}[scaling.value]
    assert q.scales[0, -1] == last.abs().max() / 448


@given(matrices(), st.sampled_from(Scaling))
def test_the_shape_of_the_scales_is_known_before(x, scaling):
    assert quantize(x, scaling).scales.shape == scale_shape(*x.shape, scaling)


def test_what_is_no_matrix_is_refused():
    for x in (torch.tensor(1.0), torch.ones(16), torch.ones(2, 3, 16)):
        for scaling in Scaling:
            with pytest.raises(ValueError, match="float8.quantize rounds a matrix, got shape"):
                quantize(x, scaling)
