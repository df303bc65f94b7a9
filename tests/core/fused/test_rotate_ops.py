"""Norm over all heads and rotation: one meaning in every backend, gradients of the plain path."""

import pytest
import torch

from longlive_core.backends import BackendUnavailable
from longlive_core.fused import rotate_heads
from longlive_core.fused.rotate_ops import turn
from longlive_core.testing import assert_bitwise_equal
from tests.core.kernel_script import run_kernels

INTERPRETED = """
import torch
from longlive_core.fused import rotate_ops as rotate
from longlive_core.fused.kernels import rotate_rows as kernel
from longlive_core.testing import assert_bitwise_equal

generator = torch.Generator().manual_seed(0)
for batch, tokens, heads, size in ((1, 1, 1, 2), (2, 5, 3, 16), (1, 3, 8, 48)):
    x = torch.randn(batch, tokens, heads * size, generator=generator).bfloat16()
    weight = torch.randn(heads * size, generator=generator).bfloat16()
    for samples in (1, batch):
        turns = torch.randn(samples, tokens, 1, size // 2, generator=generator)
        angles = (turns.cos()[..., None], torch.stack((-turns.sin(), turns.sin()), -1))
        for scaled in (None, weight):
            for turned in (None, angles):
                want = rotate._reference(x, heads, scaled, 1e-6, turned, None)
                got = kernel.rotate_heads(x, heads, scaled, 1e-6, turned, None)
                assert_bitwise_equal(got, want, f"{size} {scaled is not None} {turned is not None}")
                store = torch.zeros(batch, 3, tokens, heads, size).bfloat16()
                room = store[:, 1]
                assert kernel.rotate_heads(x, heads, scaled, 1e-6, turned, room) is room
                assert_bitwise_equal(store[:, 1], want)
                assert not store[:, [0, 2]].any()
                other = torch.zeros(batch, heads, tokens, size).bfloat16().transpose(1, 2)
                kernel.rotate_heads(x, heads, scaled, 1e-6, turned, other)
                assert_bitwise_equal(other.contiguous(), want)
"""

COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from longlive_core.fused.kernels.launch import tile
from longlive_core.fused.kernels.rotate_rows import _rotate

kinds = dict.fromkeys(("x_ptr", "weight_ptr", "out_ptr"), "*bf16")
kinds |= dict.fromkeys(("cos_ptr", "sin_ptr"), "*fp32")
kinds |= dict.fromkeys(("rows", "tokens", "sample_stride", "angle_stride"), "i32")
width, rows, warps = tile(3072)
signature = {name: kinds.get(name, "constexpr") for name in _rotate.arg_names}
constants = {"NORMS": True, "TURNS": True, "EPS": 1e-6, "NATIVE": True, "PAIRS": 64, "D": 3072,
             "WIDTH": width, "ROWS": rows}
aligned = {(place,): [["tt.divisibility", 16]] for place in range(8)}
source = ASTSource(fn=_rotate, signature=signature, constexprs=constants, attrs=aligned)
options = {"enable_fp_fusion": False, "num_warps": warps}
code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
assert "fma." not in code and ".ftz" not in code
assert "ld.global.v4.b32" in code and "st.global.v4.b32" in code
"""


def operands(dtype: torch.dtype, heads: int = 3, size: int = 8) -> tuple:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, heads * size, generator=generator).to(dtype)
    weight = torch.randn(heads * size, generator=generator).to(dtype)
    turns = torch.randn(1, 5, 1, size // 2, generator=generator)
    return x, weight, (turns.cos()[..., None], torch.stack((-turns.sin(), turns.sin()), -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_gradients_a_cpu_turns_to_the_last_digit_as_with_them(dtype):
    x, _, angles = operands(torch.float64)
    x = x.unflatten(-1, (3, -1)).to(dtype)[:, ::2]  # in no one run
    angles = tuple(a[:, ::2].to(torch.promote_types(dtype, torch.float32)) for a in angles)
    want = turn(x, angles)
    with torch.no_grad():
        got = turn(x, angles)
    assert got.dtype == want.dtype == dtype
    digit = torch.finfo(dtype).eps
    torch.testing.assert_close(got, want, rtol=digit, atol=4 * digit)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_pairs_turn_as_complex_numbers_do(backend):
    x, weight, angles = operands(torch.bfloat16)
    wide = x.double()
    n = wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
    pairs = torch.view_as_complex(n.unflatten(-1, (3, 4, 2)).contiguous())
    angle = torch.complex(angles[0][..., 0].double(), angles[1][..., 1].double())
    want = torch.view_as_real(pairs * angle).flatten(-2)
    got = rotate_heads(x, 3, weight=weight, eps=1e-6, angles=angles, backend=backend)
    torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_the_result_is_written_where_it_shall_be(backend):
    x, weight, angles = operands(torch.bfloat16)
    how = {"weight": weight, "eps": 1e-6, "angles": angles, "backend": backend}
    store = torch.zeros(2, 3, 5, 3, 8, dtype=torch.bfloat16)
    room = store[:, 1]
    assert rotate_heads(x, 3, out=room, **how) is room
    assert_bitwise_equal(store[:, 1], rotate_heads(x, 3, **how))


def test_without_norm_and_angles_heads_are_split():
    x, _, _ = operands(torch.float32)
    assert_bitwise_equal(rotate_heads(x, 3), x.view(2, 5, 3, 8))


def test_where_gradients_flow_the_plain_path_runs_and_they_are_right():
    x, weight, angles = operands(torch.float64, size=4)
    turned = tuple(angle.double() for angle in angles)

    def run(x, weight):
        return rotate_heads(x, 3, weight=weight, eps=1e-3, angles=turned)

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), weight.requires_grad_()))
    x, weight, _ = operands(torch.bfloat16)
    with pytest.raises(BackendUnavailable, match="it has no backward, and a gradient is needed"):
        rotate_heads(x.requires_grad_(), 3, weight=weight, eps=1e-6, backend="reference")


def test_the_interpreted_kernel_gives_the_references_bits():
    run_kernels(INTERPRETED, interpreted=True)


def test_the_compiled_kernel_rounds_as_the_reference_and_moves_sixteen_bytes_at_a_time():
    """For compute capability 9.0, without a GPU."""
    run_kernels(COMPILED, interpreted=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize(("heads", "size"), [(24, 128), (8, 48)])
def test_the_compiled_kernel_gives_the_references_bits(heads, size):
    x = torch.randn(1, 880, heads * size, device="cuda").bfloat16()
    weight = torch.randn(heads * size, device="cuda").bfloat16()
    turns = torch.randn(1, 880, 1, size // 2, device="cuda")
    angles = (turns.cos()[..., None], torch.stack((-turns.sin(), turns.sin()), -1))
    for turned in (angles, None):
        got, want = (
            rotate_heads(x, heads, weight=weight, eps=1e-6, angles=turned, backend=name)
            for name in ("triton", "reference")
        )
        assert_bitwise_equal(got, want)
