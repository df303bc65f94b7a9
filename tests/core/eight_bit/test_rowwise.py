"""Rows in a byte a number: nearest codes, one meaning in PyTorch and in the kernel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable
from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.rowwise import encode_rows
from tests.core.kernel_script import run_kernels

INTERPRETED = """
import warnings
import torch
from longlive_core.eight_bit import rowwise
from longlive_core.eight_bit.kernels import encode_byte_rows
from longlive_core.testing import assert_bitwise_equal

warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's, where a GPU is silent
generator = torch.Generator().manual_seed(0)
for rows, cols in ((1, 1), (70, 16), (5, 100), (33, 128), (3, 5000)):
    x = torch.randn(rows, cols, generator=generator)
    x *= 2.0 ** torch.randint(-140, 100, (rows, 1), generator=generator).float()
    x[-1] = 0
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        small = x.abs() < 1e-35  # the interpreter reads bfloat16's subnormal numbers wrong
        given = torch.where(small & (dtype == torch.bfloat16), 0, x).to(dtype)
        given[0, 0] = {1: 1.0}.get(rows, float("inf")) if cols < 5000 else float("nan")
        for kind in rowwise.LARGEST:
            got, want = (f(given, kind) for f in
                         (encode_byte_rows.encode_rows, rowwise._reference))
            name = f"{rows} {cols} {dtype} {kind}"
            fine = given.isfinite().all(1)
            assert_bitwise_equal(got[0][fine].view(torch.uint8), want[0][fine].view(torch.uint8),
                                 name + " codes")
            assert_bitwise_equal(got[1][fine], want[1][fine], name + " scales")
            for codes, scales in (got, want):
                assert (codes[~fine].float() * scales[~fine]).isnan().all(), name
"""

SHORT = """
import torch
from longlive_core.eight_bit.kernels.encode_byte_rows import _encode
from longlive_core.eight_bit.rowwise import encode_rows

x = torch.tensor([[-0.0, 0.0, -1.0, 448.0], [-0.0, 0.0, 3.0, -896.0]])
codes, scales = torch.full(x.shape, 7, dtype=torch.uint8), torch.empty(2, 1)
sizes = {"LARGEST": 448.0, "E4M3": True, "CONVERTS": False, "D": 4, "WIDTH": 4, "ROWS": 2}
_encode[(1,)](x, codes, scales, 2, SHORT=True, **sizes)
want, _ = encode_rows(x, torch.float8_e4m3fn, backend="reference")
assert torch.equal(codes, want.view(torch.uint8)), (codes, want.view(torch.uint8))
assert codes[0, 0] == 0x80
"""

COMPILED = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from longlive_core.eight_bit.kernels.encode_byte_rows import _encode, width_of

kinds = {"x_ptr": "*bf16", "codes_ptr": "*u8", "scales_ptr": "*fp32", "rows": "i32"}
aligned = {(place,): [["tt.divisibility", 16]] for place in range(3)}
signature = {name: kinds.get(name, "constexpr") for name in _encode.arg_names}
for cols, width in ((128, 128), (3072, 1024), (14336, 2048)):
    assert width_of(cols) == width
    for largest, e4m3 in ((448.0, True), (127.0, False)):
        for capability in (80, 90):
            short = e4m3 and capability == 90
            constants = {"LARGEST": largest, "E4M3": e4m3, "CONVERTS": capability == 90,
                         "SHORT": short, "D": cols, "WIDTH": width, "ROWS": 4096 // width}
            source = ASTSource(fn=_encode, signature=signature, constexprs=constants, attrs=aligned)
            target = GPUTarget("cuda", capability, 32)
            options = {"enable_fp_fusion": False}
            code = triton.compile(source, target=target, options=options).asm["ptx"]
            assert ("cvt.rn.satfinite.e4m3x2" in code) == (e4m3 and capability == 90)
            values = 4096 // 128 * (cols // width)
            assert code.count("fma.") == (2 * values if short else 0), "two a short division"
            assert ".ftz" not in code, cols
            assert "ld.global.v4.b32" in code, f"{cols}: not read 16 bytes at a time"
            stores = set(re.findall(r"st[.]global[.a-z0-9]*", code))
            assert stores <= {"st.global.v2.b32", "st.global.v4.b32", "st.global.b32"}, stores
"""


@given(
    st.integers(1, 9),
    st.integers(1, 70),
    st.integers(-140, 120),
    st.sampled_from(sorted(LARGEST, key=str)),
    st.integers(0, 2**31),
)
def test_a_code_is_the_nearest_and_the_largest_number_is_kept(rows, cols, power, kind, seed):
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    codes, scales = encode_rows(x, kind)
    assert codes.dtype == kind and scales.shape == (rows, 1)
    every = torch.arange(256, dtype=torch.uint8).view(kind).double()
    every = every[every.abs() <= LARGEST[kind]]
    grid = every * scales.double()[..., None]
    nearest = (grid - x.double()[..., None]).abs().amin(-1)
    got = (codes.double() * scales.double() - x.double()).abs()
    assert (got <= nearest * (1 + 1e-5) + scales.double() * 1e-4).all()
    if x.abs().amax() > 2.0**-100:
        top = x.abs().argmax(1, keepdim=True)
        assert codes.double().abs().gather(1, top).eq(LARGEST[kind]).all()


@pytest.mark.parametrize("kind", LARGEST)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_makes_its_row_nan_and_no_other(kind, bad):
    x = torch.ones(3, 20)
    x[1, 4] = bad
    codes, scales = encode_rows(x, kind)
    back = codes.float() * scales
    assert back[1].isnan().all()
    torch.testing.assert_close(back[[0, 2]], torch.ones(2, 20))


def test_another_format_is_refused():
    with pytest.raises(ValueError, match=r"code_dtype=torch.uint8.*float8_e4m3fn, torch.int8"):
        encode_rows(torch.zeros(1, 16), torch.uint8)


def test_a_gpu_s_kernel_is_refused_where_there_is_none():
    with pytest.raises(BackendUnavailable, match="encode_rows.*needs a CUDA device"):
        encode_rows(torch.zeros(1, 16), torch.int8, backend="triton")


def test_the_interpreted_kernel_gives_the_references_bits():
    run_kernels(INTERPRETED, interpreted=True)


def test_the_short_division_leaves_zeros_their_signs():
    run_kernels(SHORT, interpreted=True)


def test_the_compiled_kernel_reads_sixteen_bytes_at_a_time_and_rounds_as_the_reference():
    """For compute capability 8.0 and 9.0, without a GPU."""
    run_kernels(COMPILED, interpreted=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize("kind", LARGEST)
@pytest.mark.parametrize("shape", [(7040, 3072), (168960, 128), (33, 14336), (7, 100), (0, 64)])
def test_the_compiled_kernel_gives_the_references_bits(kind, shape):
    generator = torch.Generator("cuda").manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.randn(shape, generator=generator, device="cuda")
        x *= 2.0 ** torch.randint(-20, 9, (shape[0], 1), generator=generator, device="cuda")
        x[:, ::7] = -0.0
        got, want = (encode_rows(x.to(dtype), kind, backend=b) for b in ("triton", "reference"))
        assert torch.equal(got[0].view(torch.uint8), want[0].view(torch.uint8))
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize(
    "rows", [torch.ones(2, 16).int(), torch.ones(2, 16).bool(), torch.ones(()), torch.ones(2, 2, 8)]
)
def test_what_is_no_matrix_of_floats_is_refused(rows):
    with pytest.raises(ValueError, match=r"encode_rows takes a matrix of .*got torch\."):
        encode_rows(rows, torch.int8)


def test_wider_numbers_are_rounded_to_float32_first():
    rows = torch.randn(3, 16)
    for got, want in zip(
        encode_rows(rows.double(), torch.int8), encode_rows(rows, torch.int8), strict=True
    ):
        assert torch.equal(got, want)


def test_the_short_division_of_bfloat16s_gives_the_codes_of_the_quotient():
    """All significands, with float64 in place of the fused multiply-add, whose products it holds.

    A scale is a largest magnitude over 448, and a number is at most that: 20 binades of them reach
    from E4M3's largest to below half of its smallest.
    """
    significands = torch.arange(128, 256, dtype=torch.float32)
    scale = (significands / 448)[:, None]
    below = 2.0 ** torch.arange(-20, 1, dtype=torch.float32)
    x = (significands[:, None] * below).flatten()[None]
    x = torch.where(x <= 448 * scale, x, 0)
    inverse = 1 / scale
    near = x * inverse
    left_over = (near.double() * scale.double() - x.double()).float()
    short = (near.double() - left_over.double() * inverse.double()).float()
    codes, want = (y.clamp_max(448).to(torch.float8_e4m3fn) for y in (short, x / scale))
    assert torch.equal(codes.view(torch.uint8), want.view(torch.uint8))
    assert len(want.view(torch.uint8).unique()) == 127
    assert not torch.equal(near.to(torch.float8_e4m3fn).float(), want.float())
