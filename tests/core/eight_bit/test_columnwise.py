"""Columns as rows of E4M3: what encoding the transpose gives, in PyTorch and in the kernel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable
from longlive_core.eight_bit.columnwise import column_amax, encode_columns
from longlive_core.eight_bit.rowwise import encode_rows
from tests.core.kernel_script import run_kernels

INTERPRETED = """
import warnings
import torch
from longlive_core.eight_bit import columnwise
from longlive_core.eight_bit.kernels import encode_byte_columns
from longlive_core.testing import assert_bitwise_equal

warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's, where a GPU is silent
generator = torch.Generator().manual_seed(0)
for rows, cols in ((1, 1), (16, 70), (100, 5), (129, 65)):
    x = torch.randn(rows, cols, generator=generator)
    x *= 2.0 ** torch.randint(-100, 100, (1, cols), generator=generator).float()
    x[:, -1] = 0
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        given = x.to(dtype)
        given[0, 0] = 1.0 if rows == 1 else float("inf") if rows < 100 else float("nan")
        amax, padded = columnwise.column_amax(given), -(-rows // 16) * 16
        got = encode_byte_columns.encode_columns(given, amax, padded)
        want = columnwise._reference(given, amax, padded)
        name, fine = f"{rows} {cols} {dtype}", given.isfinite().all(0)
        assert_bitwise_equal(got[0][fine].view(torch.uint8), want[0][fine].view(torch.uint8), name)
        assert_bitwise_equal(got[1][fine], want[1][fine], name + " scales")
        for codes, scales in (got, want):
            assert (codes[~fine][:, :rows].float() * scales[~fine]).isnan().all(), name
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from longlive_core.eight_bit.kernels.encode_byte_columns import COLS, ROWS, _encode

kinds = {"x_ptr": "*bf16", "amax_ptr": "*fp32", "codes_ptr": "*u8", "scales_ptr": "*fp32",
         "rows": "i32", "padded": "i32", "cols": "i32"}
aligned = {(place,): [["tt.divisibility", 16]] for place in range(7)}
signature = {name: kinds.get(name, "constexpr") for name in _encode.arg_names}
for capability in (80, 90):
    constants = {"LARGEST": 448.0, "CONVERTS": capability == 90, "ROWS": ROWS, "COLS": COLS}
    source = ASTSource(fn=_encode, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    code = triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]
    assert ("cvt.rn.satfinite.e4m3x2" in code) == (capability == 90)
    assert "fma." not in code and ".ftz" not in code
    assert "ld.global.v4.b32" in code, "not read 16 bytes at a time"
    assert "st.global.v4.b32" in code or "st.global.v2.b32" in code, "not written in runs"
"""


@given(st.integers(1, 40), st.integers(1, 20), st.integers(-120, 110), st.integers(0, 2**31))
def test_they_are_the_codes_and_scales_of_the_transposes_rows(rows, cols, power, seed):
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    codes, scales = encode_columns(x, column_amax(x))
    want, want_scales = encode_rows(x.t(), torch.float8_e4m3fn)
    assert codes.shape == (cols, -(-rows // 16) * 16)
    assert torch.equal(codes[:, :rows].view(torch.uint8), want.view(torch.uint8))
    assert not codes[:, rows:].view(torch.uint8).any()
    assert torch.equal(scales, want_scales)


def test_the_largest_of_several_parts_gives_parts_of_the_whole():
    x = torch.randn(48, 20)
    amax = torch.maximum(column_amax(x[:16]), column_amax(x[16:]))
    whole, scales = encode_columns(x, column_amax(x))
    for part, place in ((x[:16], slice(0, 16)), (x[16:], slice(16, 48))):
        codes, own = encode_columns(part, amax)
        assert torch.equal(own, scales)
        assert torch.equal(codes.view(torch.uint8), whole[:, place].view(torch.uint8))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_makes_its_column_nan_and_no_other(bad):
    x = torch.ones(20, 3)
    x[4, 1] = bad
    codes, scales = encode_columns(x, column_amax(x))
    back = (codes.float() * scales)[:, :20]
    assert back[1].isnan().all()
    torch.testing.assert_close(back[[0, 2]], torch.ones(2, 20))


def test_no_rows_give_no_codes():
    x = torch.zeros(0, 5)
    codes, scales = encode_columns(x, column_amax(x))
    assert codes.shape == (5, 0) and scales.shape == (5, 1)


def test_numbers_beyond_the_given_magnitude_saturate():
    codes, scales = encode_columns(torch.tensor([[1.0, -8.0]]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close((codes.float() * scales)[:, 0], torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize("x", [torch.ones(2, 16).int(), torch.ones(()), torch.ones(2, 2, 8)])
def test_what_is_no_matrix_of_floats_is_refused(x):
    with pytest.raises(ValueError, match=r"encode_columns takes a matrix of .*got torch\."):
        encode_columns(x, torch.ones(16))


@pytest.mark.parametrize("amax", [torch.ones(3), torch.ones(2, dtype=torch.float64)])
def test_other_magnitudes_are_refused(amax):
    with pytest.raises(ValueError, match="scales 2 columns by as many float32 magnitudes"):
        encode_columns(torch.ones(16, 2), amax)


def test_a_gpu_s_kernel_is_refused_where_there_is_none():
    with pytest.raises(BackendUnavailable, match="encode_columns.*needs a CUDA device"):
        encode_columns(torch.ones(16, 2), torch.ones(2), backend="triton")


def test_the_interpreted_kernel_gives_the_references_bits():
    run_kernels(INTERPRETED, interpreted=True)


def test_the_compiled_kernel_moves_many_bytes_at_a_time_and_rounds_as_the_reference():
    """For compute capability 8.0 and 9.0, without a GPU."""
    run_kernels(COMPILED, interpreted=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize("shape", [(7040, 3072), (33, 14336), (7, 100)])
def test_the_compiled_kernel_gives_the_references_bits(shape):
    generator = torch.Generator("cuda").manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.randn(shape, generator=generator, device="cuda")
        x *= 2.0 ** torch.randint(-20, 9, (1, shape[1]), generator=generator, device="cuda")
        amax = column_amax(x.to(dtype))
        got, want = (encode_columns(x.to(dtype), amax, backend=b) for b in ("triton", "reference"))
        assert torch.equal(got[0].view(torch.uint8), want[0].view(torch.uint8))
        assert torch.equal(got[1], want[1])
