"""A convolution to few channels, computed in other ways: the same sums."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.vae import few_channels
from longlive_models.vae.streaming import features, rows
from tests.models.vae.tiny import difference

WAYS = {
    "plain": few_channels.plain,
    "16 channels": few_channels.widened,
    "32 channels": partial(few_channels.widened, channels=32),
    "groups of 2": partial(few_channels.grouped, group=2),
    "groups of 4": few_channels.grouped,
    "products": few_channels.products,
}


@pytest.mark.parametrize("way", WAYS)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 4)
)
def test_every_way_is_the_convolution(way, batch, frames, height, width, channels):
    x = torch.randn(batch, frames + 2, height, width, channels, dtype=torch.float64)
    weight = torch.randn(12, channels, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(12, dtype=torch.float64)
    want = rows(F.conv3d(features(x), weight, bias, padding=(0, 1, 1)))
    assert difference(WAYS[way](x, weight, bias), want) < 1e-12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="tensor cores round in other ways")
@pytest.mark.parametrize("way", WAYS)
def test_on_a_gpu_only_rounding_differs(way):
    x = torch.randn(1, 4, 16, 24, 256, device="cuda", dtype=torch.bfloat16)
    weight = 0.01 * torch.randn(12, 256, 3, 3, 3, device="cuda", dtype=torch.bfloat16)
    bias = torch.randn(12, device="cuda", dtype=torch.bfloat16)
    want = rows(F.conv3d(features(x.double()), weight.double(), bias.double(), padding=(0, 1, 1)))
    torch.testing.assert_close(WAYS[way](x, weight, bias).double(), want, rtol=8e-3, atol=8e-3)
