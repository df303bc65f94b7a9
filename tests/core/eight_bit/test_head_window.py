"""A window in E4M3 whose past is encoded once: near numbers, whatever its own tokens become."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable
from longlive_core.eight_bit import EncodedHeads, decode_heads, encode_window
from longlive_core.eight_bit.head_window import fitting_scales
from tests.core.kernel_script import run_kernels

SAME = """
import torch
from longlive_core.eight_bit import head_window
from longlive_core.eight_bit.kernels import encode_window
from longlive_core.testing import assert_bitwise_equal

generator = torch.Generator().manual_seed(0)
FACTORS = (1, 1.5, 3, 0.01, 2.0**90, 1, float("nan"), 1)
for (batch, heads, dim), lengths in SIZES:
    for dtype in (torch.float32, torch.bfloat16):
        rooms = [torch.randn(batch, n + 2, heads, dim, generator=generator) for n in lengths]
        large = 2.0 ** torch.randint(-9, 9, (heads, 1), generator=generator)
        rooms = [(room * large).to(dtype).to(DEVICE) for room in rooms]
        *past, own = [room[:, :n] for room, n in zip(rooms, lengths)]  # views of longer rooms
        tokens = sum(lengths)
        windows = [
            torch.full((batch, tokens, heads, dim), 7, dtype=torch.uint8, device=DEVICE)
            .view(torch.float8_e4m3fn) for _ in range(2)
        ]
        scales = [None, None]
        for call, factor in enumerate(FACTORS):
            x = own.clone()
            x[:, :, -1] *= factor
            parts = past if call == 0 else ()
            runs = (encode_window.encode_window, head_window._reference)
            scales = [run(w, x, parts, s) for run, w, s in zip(runs, windows, scales)]
            name = f"{batch} {heads} {dim} {dtype} {call}"
            assert_bitwise_equal(*(s.nan_to_num(7) for s in scales), name)
            assert_bitwise_equal(*(w.float().nan_to_num(999) for w in windows), name)
"""
SMALL = (
    "DEVICE = 'cpu'\nSIZES = (((1, 1, 1), (1,)), ((2, 3, 16), (70, 5, 33)), ((1, 2, 48), (9, 7)))\n"
)
LARGE = (
    "DEVICE = 'cuda'\nSIZES = (((1, 24, 128), (7040, 7040, 7040, 7040)), ((2, 3, 64), (50, 70)))\n"
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def window_of(*parts: torch.Tensor) -> torch.Tensor:
    batch, _, heads, size = parts[0].shape
    tokens = sum(part.shape[1] for part in parts)
    return torch.empty(batch, tokens, heads, size, dtype=torch.float8_e4m3fn)


def assert_near(got: EncodedHeads, want: torch.Tensor) -> None:
    """Within half a step of E4M3 at each number, twice the smallest ones'."""
    step = got.scales[:, None, :, None] * 2.0**-9
    error = (decode_heads(*got) - want).abs()
    assert (error <= torch.maximum(want.abs() * 2.0**-4, step) * 1.001).all()


@given(
    st.integers(1, 2),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 17),
    st.lists(st.sampled_from([0.0, 2.0**-30, 0.3, 1.0, 1.9, 4.1, 900.0]), max_size=4),
    st.integers(0, 2**31),
)
def test_numbers_are_near_whatever_the_own_tokens_become(
    batch, lengths, heads, size, factors, seed
):
    generator = torch.Generator().manual_seed(seed)
    *past, own = [torch.randn(batch, n, heads, size, generator=generator) for n in lengths]
    codes = window_of(*past, own)
    found = encode_window(codes, own, past, None)
    assert_near(found, torch.cat((*past, own), 1))
    for factor in factors:
        before = found.scales
        own = factor * torch.randn(own.shape, generator=generator)
        found = encode_window(codes, own, (), before)
        assert found.codes is codes
        assert_near(found, torch.cat((*past, own), 1))
        fits = own.abs().amax((1, 3)) <= 448 * before
        assert (found.scales >= before).all()
        assert torch.equal(found.scales == before, fits)


def test_scales_are_the_smallest_powers_of_two_that_leave_a_half_of_the_range():
    amax = torch.tensor([0.0, 1e-45, 224.0, 224.00002, 448.0, 3.0, 1e38])
    scales = fitting_scales(amax)
    assert torch.equal(scales[2:6], torch.tensor([1.0, 2.0, 2.0, 2.0**-6]))
    assert torch.equal(scales[:2], torch.full((2,), 2.0**-126))
    assert 112 < 1e38 / scales[6] <= 224
    assert fitting_scales(torch.tensor([torch.nan, torch.inf])).isnan().all()


def test_codes_of_the_past_move_with_the_scale_of_their_own_head_alone():
    past, own = normal(1, 6, 2, 8), normal(1, 3, 2, 8, seed=1)
    codes = window_of(past, own)
    first = encode_window(codes, own, [past], None)
    before = codes.float().clone()
    louder = own.clone()
    louder[:, :, 1] *= 64
    grown = encode_window(codes, louder, (), first.scales)
    assert torch.equal(codes[:, :6, 0].float(), before[:, :6, 0])
    ratio = grown.scales[0, 1] / first.scales[0, 1]
    assert 32 <= ratio <= 128
    moved = codes[:, :6, 1].float() * ratio - before[:, :6, 1]
    normal_numbers = (before[:, :6, 1] / ratio).abs() >= 2.0**-6
    assert (moved[normal_numbers] == 0).all() and normal_numbers.float().mean() > 0.8


def test_a_number_that_is_not_finite_makes_its_head_nan_and_no_other():
    past, own = torch.ones(1, 2, 2, 4), torch.ones(1, 1, 2, 4)
    codes = window_of(past, own)
    first = encode_window(codes, own, [past], None)
    own[0, 0, 1, 2] = torch.inf
    back = decode_heads(*encode_window(codes, own, (), first.scales))
    assert back[:, :, 1].isnan().all() and (back[:, :, 0] == 1).all()


def test_a_gpu_s_kernel_is_refused_where_there_is_none():
    own = torch.zeros(1, 1, 1, 16)
    with pytest.raises(BackendUnavailable, match="encode_window.*needs a CUDA device"):
        encode_window(window_of(own), own, (), None, backend="triton")


def test_the_interpreted_kernels_give_the_references_bits():
    run_kernels(SMALL + SAME, interpreted=True)


COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from longlive_core.eight_bit.kernels import encode_window as kernels

KINDS = {"amax_ptr": "*i32", "tokens": "i32", "past": "i32", "batch_stride": "i64",
         "codes_stride": "i64", "x_ptr": "*bf16", "scales_ptr": "*fp32", "new_scales_ptr": "*fp32",
         "codes_ptr": "*u8", "past_ptr": "*u8", "own_ptr": "*u8"}
SIZES = {"HEADS": 24, "D": 128, "WIDTH": 128, "TOKENS": 64, "CONVERTS": True, "LARGEST": 448.0}
for kernel, first in ((kernels._largest, True), (kernels._window_codes, True),
                      (kernels._window_codes, False), (kernels._grow_window, False)):
    names = kernel.arg_names
    signature = {name: KINDS.get(name, "constexpr") for name in names}
    constants = {n: x for n, x in {**SIZES, "FIRST": first}.items() if n in names}
    runs = [(place,) for place, name in enumerate(names) if name in KINDS]
    aligned = {place: [["tt.divisibility", 16]] for place in runs}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"enable_fp_fusion": False}
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    assert "ld.global.v4.b32" in code, "not read 16 bytes at a time"
    assert ("cvt.rn.satfinite.e4m3x2" in code) == (kernel is not kernels._largest)
"""


def test_the_kernels_compile_for_hopper_and_read_sixteen_bytes_at_a_time():
    run_kernels(COMPILED, interpreted=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
def test_the_compiled_kernels_give_the_references_bits():
    run_kernels(LARGE + SAME, interpreted=False)
