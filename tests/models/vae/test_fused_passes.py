"""What lies between two convolutions in one pass: the layers' formula, and the kernels' bits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longlive_models.vae.fused_passes import JOIN_PHASES, NORM_SILU_PAD
from longlive_models.vae.layers import ChannelNorm, Upsample, add_repeated, images
from longlive_models.vae.streaming import features, rows
from tests.core.kernel_script import run_kernels
from tests.models.vae.tiny import difference

EXACT = 1e-12

INTERPRETED = """
import warnings
import torch
from longlive_models.vae import fused_passes
from longlive_models.vae.kernels.join_phases import join_phases
from longlive_models.vae.kernels.norm_silu_pad import norm_silu_pad

warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's, where a GPU is silent
generator = torch.Generator().manual_seed(0)
plain = fused_passes.NORM_SILU_PAD.named("reference").run
join = fused_passes.JOIN_PHASES.named("reference").run

def draw(*shape, dtype):
    return torch.randn(*shape, generator=generator).to(dtype)

for b, t, h, w, c in ((1, 1, 1, 3, 1), (2, 3, 2, 3, 48), (1, 4, 2, 3, 64)):
    for dtype in (torch.float32, torch.float16):  # the interpreter truncates to bfloat16
        for case in range(4):
            x, gamma = draw(b, t, h, w, c, dtype=dtype), draw(c, dtype=dtype)
            if dtype == torch.float32:
                x[0, 0, 0, 0] = 0
            given = {"bias": draw(c, dtype=dtype) if case % 2 else None,
                     "shortcut": draw(b, t, h, w, c, dtype=dtype) if case > 1 else None,
                     "keep": True}
            past = draw(b, 2, h, w + 2, c, dtype=dtype)[:, :, :, 1:-1]  # of a tile: strided
            got, want = (f(x.clone(), gamma, past, **given) for f in (norm_silu_pad, plain))
            if case > 1:
                assert torch.equal(got[0], want[0]), (c, dtype, case)
            for one, other in zip(got[1:], want[1:]):  # NumPy's exponential is not PyTorch's
                torch.testing.assert_close(one, other, rtol=2e-3 if dtype == torch.float16 else
                                           2e-6, atol=1e-7, msg=str((c, dtype, case)))
            assert torch.equal(got[1][:, :2], past) and torch.equal(got[1][:, -2:], got[2])
            assert norm_silu_pad(x, gamma, past, **{**given, "keep": False})[2] is None

for start_c, c, time, frames in ((8, 8, 2, 1), (8, 4, 2, 2), (8, 4, 1, 2), (8, 1, 2, 1),
                                 (2, 8, 1, 2), (16, 8, 1, 1), (3, 3, 2, 2)):
    for dtype in (torch.float32, torch.float16):
        phases = draw(2, frames * time, 4, 5, 4 * c, dtype=dtype)
        start, bias = draw(2, frames, 3, 4, start_c, dtype=dtype), draw(c, dtype=dtype)
        same = torch.equal(join_phases(phases, bias, start), join(phases, bias, start))
        assert same, (start_c, c, time)
"""

COMPILED = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from longlive_models.vae.kernels.join_phases import _join_phases
from longlive_models.vae.kernels.norm_silu_pad import _norm_silu_pad

def ptx(kernel, **constants):
    kinds = {name: "i32" for name in kernel.arg_names} | {"scale": "fp32"}
    kinds |= {name: "*bf16" for name in kernel.arg_names if name.endswith("_ptr")}
    kinds |= {name: "constexpr" for name in constants}
    names = [name for name in kernel.arg_names if name.endswith("_ptr")]
    attrs = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in names}
    signature = {name: kinds[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attrs)
    options = {"enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]

given = {"PAST": 2, "BIAS": True, "SHORTCUT": True, "KEEP": True, "COMPILED": True}
for levels in (8, 10):
    code = ptx(_norm_silu_pad, C=1 << levels, LEVELS=levels, ROWS=4096 >> levels, **given)
    fused = [line for line in code.splitlines() if "fma." in line and ".ftz" not in line]
    assert not fused, "only the exponential multiplies and adds at once"
    assert "ld.global.v4.b32" in code and "ld.global.b16" not in code, levels
    assert set(re.findall(r"st[.]global[.a-z0-9]*", code)) == {"st.global.v4.b32"}, levels
code = ptx(_join_phases, TIME=2, C=1024, START_C=1024, REPEAT=1, UNFOLD_TIME=1, UNFOLD_ROW=1,
           UNFOLD_COLUMN=1, POSITIONS=4, WIDTH=1024)
assert "fma." not in code
assert set(re.findall(r"(?:ld|st)[.]global[.a-z0-9]*", code)) == {"ld.global.v4.b32",
                                                                  "st.global.v4.b32"}
"""


def draw(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(device, dtype)


@given(st.integers(1, 3), st.integers(1, 7), st.booleans(), st.booleans())
def test_the_reference_is_the_layers_formula(frames, channels, biased, added):
    x, past, gamma = draw(2, frames, 2, 3, channels), draw(2, 2, 2, 3, channels), draw(channels)
    bias = draw(channels) if biased else None
    shortcut = draw(2, frames, 2, 3, channels) if added else None
    run = NORM_SILU_PAD.named("reference").run
    _, padded, kept = run(x, gamma, past, bias=bias, shortcut=shortcut, keep=True)
    norm = ChannelNorm(channels).double()
    norm.gamma.data = gamma.view(-1, 1, 1, 1)
    total = x + (bias if biased else 0) + (shortcut if added else 0)
    want = torch.cat([past, rows(F.silu(norm(features(total))))], 1)
    assert difference(padded, want) < EXACT
    assert torch.equal(kept, padded[:, -2:]) and kept.is_contiguous()


@pytest.mark.parametrize(
    ("start", "channels", "time"), [(4, 4, 2), (4, 2, 1), (8, 1, 2), (2, 4, 1)]
)
def test_joined_phases_are_the_upsampling_and_its_shortcut(start, channels, time):
    up = Upsample(channels, temporal=False).double()
    x, begun = draw(2, 2 * time, 3, 4, channels), draw(2, 2, 3, 4, start)
    phases = F.conv2d(images(features(x)), up.phases(), padding=1)
    phases = phases.permute(0, 2, 3, 1).unflatten(0, (2, -1))
    got = JOIN_PHASES.named("reference").run(phases, up.resample[1].bias, begun)
    doubled = up.resample(images(features(x)))  # the layers as they are named in a checkpoint
    doubled = features(doubled.permute(0, 2, 3, 1).unflatten(0, (2, -1)))
    want = add_repeated(doubled, features(begun), time=time, first=False)
    assert difference(features(got), want) < EXACT


def test_interpreted_kernels_give_the_references_numbers():
    run_kernels(INTERPRETED, interpreted=True)


def test_kernels_compile_and_read_and_write_sixteen_bytes_at_a_time():
    run_kernels(COMPILED, interpreted=False)


gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a GPU")


@gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("channels", [48, 96, 256, 512, 1024])
def test_a_compiled_norm_gives_the_references_bits(channels, dtype):
    for frames, bias, shortcut in ((1, False, False), (4, True, False), (3, True, True)):
        x = draw(1, frames, 9, 17, channels, dtype=dtype, device="cuda")
        past = draw(1, 2, 9, 20, channels, dtype=dtype, device="cuda")[:, :, :, 2:-1]
        given = {
            "bias": draw(channels, dtype=dtype, device="cuda") if bias else None,
            "shortcut": torch.randn_like(x) if shortcut else None,
            "keep": True,
        }
        gamma = draw(channels, dtype=dtype, device="cuda")
        got, want = (
            NORM_SILU_PAD.named(name).run(x.clone(), gamma, past, **given)
            for name in ("triton", "reference")
        )
        start = 0 if shortcut else 1
        for one, other in zip(got[start:], want[start:], strict=True):
            assert torch.equal(one, other), (one.float() - other.float()).abs().max()


@gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("start", "channels", "time"), [(1024, 1024, 2), (1024, 512, 1), (96, 96, 2), (48, 96, 1)]
)
def test_compiled_joining_gives_the_references_bits(start, channels, time, dtype):
    phases = draw(1, 2 * time, 8, 12, 4 * channels, dtype=dtype, device="cuda")
    given = (
        draw(channels, dtype=dtype, device="cuda"),
        draw(1, 2, 7, 11, start, dtype=dtype, device="cuda"),
    )
    got, want = (JOIN_PHASES.named(name).run(phases, *given) for name in ("triton", "reference"))
    assert torch.equal(got, want)
