"""Heads in E4M3 with one scale each: nearest codes, one meaning in PyTorch and in the kernel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable
from longlive_core.eight_bit import decode_heads, encode_heads
from tests.core.kernel_script import run_kernels

INTERPRETED = """
import torch
from longlive_core.eight_bit import heads
from longlive_core.eight_bit.kernels import encode_heads
from longlive_core.testing import assert_bitwise_equal

generator = torch.Generator().manual_seed(0)
for shape in ((1, 1, 1, 1), (2, 70, 3, 16), (1, 33, 2, 48), (2, 5, 1, 100)):
    x = torch.randn(shape, generator=generator)
    x *= 2.0 ** torch.randint(-20, 20, (shape[0], 1, shape[2], 1), generator=generator)
    x[:, :, 0, 0] += 3
    mean = x.mean(1)
    for dtype in (torch.float32, torch.bfloat16):
        for less in (None, mean):
            padded = torch.cat((x, x[:, :1]), 1).to(dtype)[:, : shape[1]]  # a view of a window
            got, want = (f(padded, less) for f in
                         (encode_heads.encode_heads, heads._reference))
            name = f"{shape} {dtype} {less is not None}"
            assert_bitwise_equal(got[0].view(torch.uint8), want[0].view(torch.uint8), name)
            assert_bitwise_equal(got[1], want[1], name + " scales")
"""


@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 4),
    st.integers(1, 33),
    st.integers(0, 2**31),
)
def test_a_number_is_near_and_a_head_has_its_own_scale(batch, tokens, heads, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, tokens, heads, size, generator=generator)
    x *= 2.0 ** torch.randint(-30, 30, (batch, 1, heads, 1), generator=generator)
    codes, scales = encode_heads(x)
    assert codes.dtype == torch.float8_e4m3fn and scales.shape == (batch, heads)
    error = (decode_heads(codes, scales) - x).abs()
    step = scales[:, None, :, None] * 2.0**-10  # half of E4M3's smallest
    assert (error <= torch.maximum(x.abs() * 2.0**-4, step) * 1.001).all()
    top = codes.float().abs().amax((1, 3))
    assert (top == 448).all()


def test_what_all_tokens_have_in_common_is_left_out():
    x = torch.randn(2, 50, 3, 16) + 40 * torch.randn(2, 1, 3, 16)
    mean = x.mean(1, dtype=torch.float32)
    codes, scales = encode_heads(x, mean)
    again = decode_heads(codes, scales) + mean[:, None]
    plain = decode_heads(*encode_heads(x))
    assert (again - x).norm() < 0.1 * (plain - x).norm()


def test_a_number_that_is_not_finite_makes_its_head_nan_and_no_other():
    x = torch.ones(1, 4, 2, 8)
    x[0, 1, 1, 3] = torch.nan
    back = decode_heads(*encode_heads(x))
    assert back[:, :, 1].isnan().all()
    assert torch.equal(back[:, :, 0], x[:, :, 0])


def test_zeros_stay_zeros():
    assert torch.equal(
        decode_heads(*encode_heads(torch.zeros(1, 2, 3, 4))), torch.zeros(1, 2, 3, 4)
    )


def test_a_gpu_s_kernel_is_refused_where_there_is_none():
    with pytest.raises(BackendUnavailable, match="encode_heads.*needs a CUDA device"):
        encode_heads(torch.zeros(1, 1, 1, 16), backend="triton")


def test_the_interpreted_kernel_gives_the_references_bits():
    run_kernels(INTERPRETED, interpreted=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_compiled_kernel_gives_the_references_bits(dtype):
    x = torch.randn(1, 3520, 24, 128, device="cuda").to(dtype)
    for mean in (None, x.mean(1, dtype=torch.float32)):
        got, want = (encode_heads(x, mean, backend=b) for b in ("triton", "reference"))
        assert torch.equal(got[0].view(torch.uint8), want[0].view(torch.uint8))
        assert torch.equal(got[1], want[1])
