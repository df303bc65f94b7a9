"""GELU whose rows leave in E4M3: near torch's, codes as ``encode_rows`` makes them."""

import pytest
import torch
import torch.nn.functional as F

from longlive_core.backends import Request
from longlive_core.eight_bit import encode_rows
from longlive_core.fused import GELU, gelu
from longlive_core.testing import assert_bitwise_equal
from tests.core.kernel_script import run_kernels

INTERPRETED = """
import torch
import torch.nn.functional as F
from longlive_core.eight_bit import encode_rows
from longlive_core.fused.kernels.gelu_rows import gelu_rows

x = (3 * torch.randn(3, 7, 200, generator=torch.Generator().manual_seed(0))).bfloat16()
x[0, 0, :4] = torch.tensor([60.0, -40.0, 0.0, -0.0])
codes, scales = gelu_rows(x)
assert codes.shape == x.shape and scales.shape == (3, 7, 1)
want, of_want = encode_rows(F.gelu(x, approximate="tanh").flatten(0, 1), torch.float8_e4m3fn)
torch.testing.assert_close(scales.flatten(), of_want.flatten(), rtol=2 ** -7, atol=0)
same = codes.flatten(0, 1).view(torch.uint8) == want.view(torch.uint8)
assert same.float().mean() > 0.9, same.float().mean()
back = codes.float() * scales
torch.testing.assert_close(back, F.gelu(x.float(), approximate="tanh"), rtol=0.07, atol=0.02)
"""


def test_plain_rows_are_torchs():
    x = torch.randn(2, 3, 40).bfloat16()
    want = F.gelu(x, approximate="tanh")
    assert_bitwise_equal(gelu(x), want)
    codes, scales = encode_rows(want.flatten(0, 1), torch.float8_e4m3fn)
    rows = gelu(x, encode=True)
    assert torch.equal(rows.codes.flatten(0, 1).view(torch.uint8), codes.view(torch.uint8))
    assert_bitwise_equal(rows.scales.flatten(0, 1), scales)


def test_the_kernel_is_of_high_quality_alone():
    assert GELU.named("triton").quality == "high"
    request = Request(device=torch.device("cpu"), dtype=torch.bfloat16, quality="high")
    assert GELU.receipt(request).backend == "torch"


def test_the_interpreted_kernel_is_near_torch():
    run_kernels(INTERPRETED, interpreted=True)


COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from longlive_core.fused.kernels.gelu_rows import VALUES_PER_THREAD, _gelu_rows
from longlive_core.fused.kernels.launch import tile

kinds = {"x_ptr": "*bf16", "codes_ptr": "*u8", "scales_ptr": "*fp32", "rows": "i32"}
aligned = {(place,): [["tt.divisibility", 16]] for place in range(3)}
signature = {name: kinds.get(name, "constexpr") for name in _gelu_rows.arg_names}
for dim in (24, 14336):
    width, rows, warps = tile(dim, encodes=True, most=VALUES_PER_THREAD)
    constants = {"LARGEST": 448.0, "CONVERTS": True, "FAST": True, "D": dim, "WIDTH": width,
                 "ROWS": rows}
    source = ASTSource(fn=_gelu_rows, signature=signature, constexprs=constants, attrs=aligned)
    options = {"enable_fp_fusion": False, "num_warps": warps}
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    values = (dim if rows == 1 else width * rows) // (32 * warps)  # a wide row has no padding
    assert code.count("ex2.approx.ftz.f32") == code.count("rcp.approx.ftz.f32") == values
    assert code.count("cvt.rn.bf16x2.f32") == values // 2
    assert "cvt.rn.bf16.f32" not in code, "rounded one by one"
    assert code.count("cvt.rn.satfinite.e4m3x2.f32") - values // 2 in (0, 1)  # and one of zeros
"""


def test_the_compiled_kernel_takes_two_approximations_a_number_and_rounds_in_pairs():
    run_kernels(COMPILED, interpreted=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
def test_the_compiled_kernel_is_near_torch():
    x = 3 * torch.randn(880, 14336, device="cuda").bfloat16()
    got = gelu(x, encode=True, backend="triton")
    want = gelu(x, encode=True, backend="torch")
    torch.testing.assert_close(got.scales, want.scales, rtol=2**-7, atol=0)
    same = got.codes.view(torch.uint8) == want.codes.view(torch.uint8)
    assert same.float().mean() > 0.9
