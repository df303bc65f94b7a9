"""Residual, norm and modulation: one meaning in every backend, gradients of the plain path."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable, Request
from longlive_core.fused import NORM, Affine, Modulation, add, add_norm, norm
from longlive_core.fused.choice import WIDEST, asked
from longlive_core.fused.statistics import layer_statistics, rms_statistic
from longlive_core.testing import assert_bitwise_equal
from tests.core.kernel_script import run_kernels

INTERPRETED = """
import itertools
import torch
from longlive_core.fused import norm_ops as norm
from longlive_core.fused.kernels import norm_rows as kernel
from longlive_core.testing import assert_bitwise_equal

generator = torch.Generator().manual_seed(0)

def drawn(*shape):
    return torch.randn(shape, generator=generator).bfloat16()

for batch, steps, tokens, dim in ((1, 1, 1, 24), (2, 3, 5, 100), (1, 2, 3, 768)):
    x = drawn(batch, steps, tokens, dim)
    x *= 2.0 ** torch.randint(-20, 20, (batch, steps, tokens, 1), generator=generator)
    x[-1, -1, -1] = 0
    x[0, 0, 0, -1] = 300
    y = drawn(batch, steps, tokens, dim)
    six = drawn(batch, steps, 6, dim)
    gate, shift, scale, *_ = six.unbind(2)
    afters = (None, norm.Modulation(shift, scale), norm.Affine(drawn(dim), drawn(dim)))
    for after, added, encode in itertools.product(afters, (None, y), (False, True)):
        if after is None and (encode or added is None):
            continue
        for gated in (None, gate):
            operands = None if after is None else (norm._first(after), norm._second(after))
            modulated = isinstance(after, norm.Modulation)
            got = kernel.add_norm(x, added, gated, operands, modulated=modulated, eps=1e-6,
                                  encode=encode)
            want = norm._reference(x, added, gated, after, 1e-6, encode)
            name = f"{dim} {type(after).__name__} {added is not None} {gated is not None}"
            assert_bitwise_equal(got[0], want[0], name + " sum")
            if encode:
                assert_bitwise_equal(got[1].codes.view(torch.uint8),
                                     want[1].codes.view(torch.uint8), name + " codes")
                assert_bitwise_equal(got[1].scales, want[1].scales, name + " scales")
            else:
                assert_bitwise_equal(got[1], want[1], name)

# vectors of one sample or one step serve all, as in torch
x, y, six = drawn(2, 3, 5, 32), drawn(2, 3, 5, 32), drawn(2, 3, 6, 32)
for samples, steps in itertools.product((2, 1), (3, 1)):
    gate, shift, scale, *_ = six[:samples, :steps].unbind(2)
    got = kernel.add_norm(x, y, gate, (shift, scale), modulated=True, eps=1e-6, encode=False)
    want = norm._reference(x, y, gate, norm.Modulation(shift, scale), 1e-6, False)
    for one, other in zip(got, want):
        assert_bitwise_equal(one, other, f"vectors of {samples} samples and {steps} steps")
"""

COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from longlive_core.fused.kernels.launch import tile
from longlive_core.fused.kernels.norm_rows import _add_norm

kinds = {name: "*bf16" for name in
         ("x_ptr", "y_ptr", "gate_ptr", "first_ptr", "second_ptr", "sum_ptr")}
kinds |= {"scales_ptr": "*fp32"}
kinds |= dict.fromkeys(("rows", "tokens", "gate_stride", "step_stride"), "i32")
aligned = {(place,): [["tt.divisibility", 16]] for place in (*range(8), 10, 11)}
for encodes in (False, True):
    width, rows, warps = tile(3072, encodes=encodes)
    kinds["out_ptr"] = "*u8" if encodes else "*bf16"
    signature = {name: kinds.get(name, "constexpr") for name in _add_norm.arg_names}
    constants = {"ADDS": True, "GATED": True, "AFTER": 1, "ENCODES": encodes, "EPS": 1e-6,
                 "LARGEST": 448.0, "CONVERTS": True, "NATIVE": True, "D": 3072, "WIDTH": width,
                 "ROWS": rows}
    source = ASTSource(fn=_add_norm, signature=signature, constexprs=constants, attrs=aligned)
    options = {"enable_fp_fusion": False, "num_warps": warps}
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    short = 2 * 3072 // (32 * warps) if encodes else 0  # of zero one is left of its two
    assert code.count("fma.") - short in (0, encodes), "two a short division, no other"
    assert ".ftz" not in code
    assert "sqrt.rn.f64" in code and "div.rn.f64" in code
    assert "ld.global.v4.b32" in code, "not read 16 bytes at a time"
"""

ROWS = ("reference", "torch")


def operands(dtype: torch.dtype, *, seed: int = 0, dim: int = 48) -> tuple[torch.Tensor, ...]:
    """x, y [2, 3, 4, dim]; gate, shift and scale [2, 3, dim], as views of one tensor."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 2, 3, 4, dim, generator=generator).to(dtype)
    return x, y, *torch.randn(2, 3, 6, dim, generator=generator).to(dtype).unbind(2)[:3]


@given(st.integers(1, 200), st.integers(-40, 40), st.floats(-3, 3), st.integers(0, 2**31))
def test_statistics_are_those_of_wide_arithmetic(dim, power, middle, seed):
    generator = torch.Generator().manual_seed(seed)
    x = ((torch.randn(5, dim, generator=generator) + middle) * 2.0**power).bfloat16()
    eps = 1e-6 * 4.0**power
    mean, rstd = layer_statistics(x, eps)
    wide = x.double()
    spread = wide.abs().amax(-1, keepdim=True)
    assert ((mean - wide.mean(-1, keepdim=True)).abs() <= 2.0**-20 * spread).all()
    variance = wide.var(-1, keepdim=True, correction=0)
    torch.testing.assert_close(1 / rstd.double() ** 2, variance + eps, rtol=1e-4, atol=0)
    root = rms_statistic(x, eps).double()
    torch.testing.assert_close(1 / root**2, wide.square().mean(-1, keepdim=True) + eps,
                               rtol=1e-4, atol=0)  # fmt: skip


@given(st.permutations(range(40)), st.integers(0, 2**31))
def test_statistics_do_not_depend_on_the_order_of_their_sums(order, seed):
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)).bfloat16()
    for got, want in zip(layer_statistics(x[:, order], 1e-6), layer_statistics(x, 1e-6),
                         strict=True):  # fmt: skip
        assert_bitwise_equal(got, want)
    assert_bitwise_equal(rms_statistic(x[:, order], 1e-6), rms_statistic(x, 1e-6))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_makes_its_row_nan_and_no_other(bad):
    x, _, _, shift, scale = operands(torch.bfloat16)
    fine = norm(x, Modulation(shift, scale), eps=1e-6, backend="reference")
    x[1, 2, 3, 7] = bad
    got = norm(x, Modulation(shift, scale), eps=1e-6, backend="reference")
    assert got[1, 2, 3].isnan().all()
    got[1, 2, 3] = fine[1, 2, 3]
    assert_bitwise_equal(got, fine)


@pytest.mark.parametrize("backend", ROWS)
@pytest.mark.parametrize("gated", [False, True])
def test_a_row_is_what_the_formulas_say(backend, gated):
    x, y, gate, shift, scale = operands(torch.bfloat16)
    wide = [t.double() for t in (x, y, gate, shift, scale)]
    summed = wide[0] + wide[1] * (wide[2][..., None, :] if gated else 1)
    n = F.layer_norm(summed, (48,), eps=1e-6)
    want = n * (1 + wide[4][..., None, :]) + wide[3][..., None, :]
    total, got = add_norm(
        x, y, gate if gated else None, Modulation(shift, scale), eps=1e-6, backend=backend
    )
    torch.testing.assert_close(total.double(), summed, rtol=2**-8, atol=1e-3)
    torch.testing.assert_close(got.double(), want, rtol=3e-2, atol=3e-2)
    weight, bias = shift[0, 0], scale[0, 0]
    got = norm(x, Affine(weight, bias), eps=1e-6, backend=backend)
    want = F.layer_norm(wide[0], (48,), weight.double(), bias.double(), 1e-6)
    torch.testing.assert_close(got.double(), want, rtol=1e-2, atol=1e-2)
    assert_bitwise_equal(add(x, y, gate, backend=backend), add(x, y, gate, backend="torch"))


@pytest.mark.parametrize("backend", ROWS)
def test_encoded_rows_are_those_of_the_result(backend):
    x, _, _, shift, scale = operands(torch.bfloat16)
    after = Modulation(shift, scale)
    plain = norm(x, after, eps=1e-6, backend=backend)
    rows = norm(x, after, eps=1e-6, encode=True, backend=backend)
    assert rows.codes.shape == x.shape and rows.scales.shape == (2, 3, 4, 1)
    back = rows.codes.float() * rows.scales
    torch.testing.assert_close(back, plain.float(), rtol=2**-4, atol=2**-6)


def test_where_gradients_flow_the_plain_path_runs_and_they_are_right():
    tensors = [t.double().requires_grad_() for t in operands(torch.float32, dim=6)]

    def run(x, y, gate, shift, scale):
        return add_norm(x, y, gate, Modulation(shift, scale), eps=1e-3)

    assert torch.autograd.gradcheck(run, tensors)
    x, y, gate, shift, scale = operands(torch.bfloat16)
    with pytest.raises(BackendUnavailable, match="it has no backward, and a gradient is needed"):
        norm(x.requires_grad_(), Modulation(shift, scale), eps=1e-6, backend="reference")


def test_float32_and_autocast_take_torchs_operations():
    x, _, _, shift, scale = operands(torch.float32)
    want = torch.addcmul(shift[..., None, :], F.layer_norm(x, (48,), eps=1e-6),
                         1 + scale[..., None, :])  # fmt: skip
    assert_bitwise_equal(norm(x, Modulation(shift, scale), eps=1e-6), want)
    with pytest.raises(BackendUnavailable, match="it needs bfloat16, not float32"):
        norm(x, Modulation(shift, scale), eps=1e-6, backend="reference")
    receipt = NORM.receipt(Request(device=x.device, dtype=torch.bfloat16))
    assert receipt.backend == "torch"
    assert receipt.reasons["reference"].startswith("usable when named: it is the meaning")


def test_a_row_that_no_kernel_holds_is_torchs_whatever_the_device_has():
    """Elsewhere than in the table, as a request knows no widths."""
    wide = torch.empty(1, 1, 1, WIDEST + 1, dtype=torch.bfloat16)
    assert asked(NORM, "auto", wide)[3] == "torch"
    assert asked(NORM, "auto", wide[..., :-1])[3] == "auto"
    assert asked(NORM, "triton", wide)[3] == "triton"


def test_under_autocast_and_a_compiler_it_is_torchs_unless_it_is_named(monkeypatch):
    x = torch.empty(1, 1, 1, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert (asked(NORM, "auto", x)[3], asked(NORM, "reference", x)[3]) == ("torch", "reference")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert (asked(NORM, "auto", x)[3], asked(NORM, "reference", x)[3]) == ("torch", "reference")


def test_the_interpreted_kernel_gives_the_references_bits():
    run_kernels(INTERPRETED, interpreted=True)


def test_the_compiled_kernel_rounds_as_the_reference_and_reads_sixteen_bytes_at_a_time():
    """For compute capability 9.0, without a GPU."""
    run_kernels(COMPILED, interpreted=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize("dim", [3072, 384, 100])
@pytest.mark.parametrize("encode", [False, True])
def test_the_compiled_kernel_gives_the_references_bits(dim, encode):
    generator = torch.Generator("cuda").manual_seed(0)
    x, y = torch.randn(2, 1, 8, 110, dim, device="cuda", generator=generator).bfloat16()
    x *= 2.0 ** torch.randint(-9, 9, (1, 8, 110, 1), device="cuda", generator=generator)
    six = torch.randn(1, 8, 6, dim, device="cuda", generator=generator).bfloat16()
    gate, shift, scale, *_ = six.unbind(2)
    for after in (Modulation(shift, scale), Affine(shift[0, 0], scale[0, 0])):
        for gated in (gate, None):
            got, want = (
                add_norm(x, y, gated, after, eps=1e-6, encode=encode, backend=name)
                for name in ("triton", "reference")
            )
            assert_bitwise_equal(got[0], want[0])
            if encode:
                assert torch.equal(got[1].codes.view(torch.uint8), want[1].codes.view(torch.uint8))
                assert_bitwise_equal(got[1].scales, want[1].scales)
            else:
                assert_bitwise_equal(got[1], want[1])
