"""The Triton kernels give the reference's bits: interpreted on a CPU, and compiled on a GPU."""

import random

import pytest
import torch

from longlive_core.nvfp4 import (
    QuantizeConfig,
    ScaleRule,
    dequantize,
    quantize,
    quantize_both,
    tensor_amax,
)
from longlive_core.testing import assert_bitwise_equal
from tests.core.kernel_script import run_kernels
from tests.core.nvfp4.matrices import DTYPES, KINDS, make

INTERPRETED = """
import dataclasses
import itertools
import warnings
import torch
from longlive_core.nvfp4 import quantize_backends, reference, tensor_amax
from longlive_core.nvfp4.kernels import dequantize as decoder, quantize as coder
from longlive_core.testing import assert_bitwise_equal
from tests.core.nvfp4.matrices import CONFIGS, KINDS, make

warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's, where a GPU is silent
SEEDS = torch.tensor([5**25, 3**35])
kinds = itertools.cycle([*KINDS, "tiny", "huge", "nan"])

def draw(kind, rows, cols):
    match kind:
        case "tiny":
            return make("row scales", rows, cols) * 1e-36
        case "huge":
            return make("normal", rows, cols) * 1e30
        case "near ties":  # whose errors the order of addition decides
            x = make("normal", rows, cols)
            return x.sign() * 2.0 ** (x * (6 if rows > 512 else 3)).round()
        case "nan":
            x = make("normal", rows, cols)
            x[1, 3], x[2, 30], x[3, 40] = float("nan"), float("inf"), float("-inf")
            return x
    return make(kind, rows, cols)

def check(what, got, want):
    for a, b in zip(got, want, strict=True):
        assert_bitwise_equal(a, b, what)

def check_one(config, kind, rows, cols):
    x = draw(kind, rows, cols)
    amax = torch.tensor(4.0) if kind == "nan" else tensor_amax(x, rows // 16)
    want = reference.quantize(x, amax, config, SEEDS[0])
    what = f"{config} {kind}"
    check(what, coder.quantize(x, amax, config, SEEDS[0]), want)
    for dtype in (torch.float32, torch.float16):  # the interpreter truncates to bfloat16
        out = torch.empty(rows, cols, dtype=dtype)
        decoder.dequantize(*want, amax, config, out)
        values = reference.dequantize(*want, amax, config).to(dtype)
        check(what, [out.nan_to_num(nan=7.0)], [values.nan_to_num(nan=7.0)])

def check_both(config, kind, rotated):
    x = draw(kind, 80, 48).half()
    seeds = SEEDS if config.rounding == "stochastic" else None
    got, want = (
        [t.nan_to_num(nan=7.0) if t.ndim == 0 else t
         for t in implementation(x, tensor_amax(x), config, seeds, rotated)]
        for implementation in (coder.quantize_both, quantize_backends._reference_quantize_both)
    )
    check(f"both {config} {kind} {rotated}", got, want)

for config in CONFIGS:
    if config.rule.adaptive:
        check_one(config, "near ties", 1024 if config.block == (16, 16) else 512, 256)
    stochastic = dataclasses.replace(config, rounding="stochastic")
    check_one(config, next(kinds), 32, 48)
    check_one(stochastic, next(kinds), 16, 80)
    if config.block == (1, 16):
        check_both(config, next(kinds), rotated=True)
        check_both(stochastic, next(kinds), rotated=False)
        if config.rule.adaptive:  # whose branch for extreme amaxes takes a square in parts
            for kind in ("tiny", "huge"):
                check_both(config, kind, rotated=kind == "huge")
"""

COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from longlive_core.nvfp4.format import BlockError
from longlive_core.nvfp4.kernels import dequantize as decoder, quantize as coder

POINTERS = {"x_ptr": "*bf16", "seed_ptr": "*i64", "seeds_ptr": "*i64", "codes_ptr": "*i32",
            "scales_ptr": "*u8", "codes_t_ptr": "*i32", "scales_t_ptr": "*u8", "amax_ptr": "*fp32",
            "amax_t_ptr": "*fp32", "bits_ptr": "*i32", "out_ptr": "*bf16"}

def ptx(kernel, capability, **constants):
    signature = {name: "constexpr" if name in constants else POINTERS.get(name, "i32")
                 for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]

rule = {"ERROR": "mean_squared", "TARGET": 6.0, "FULL": 1536.0, "STOCHASTIC": True}
static = {"ERROR": "none", "TARGET": 6.0, "FULL": 2688.0, "STOCHASTIC": False}
for kernel, capability, constants in (
    (coder._quantize, 80, {**rule, "ONE_AMAX": True, "HEIGHT": 1, "T": 128}),
    (coder._quantize, 90, {**static, "ONE_AMAX": False, "HEIGHT": 16, "T": 16}),
    (decoder._dequantize, 80, {"FULL": 1536.0, "T": 256}),
    (coder._quantize_both, 90, {**static, "ROTATED": True, "TILE": 64}),
):
    code = ptx(kernel, capability, **constants)
    assert "fma." not in code and ".ftz" not in code, kernel

for error in ("none", *BlockError):
    ptx(coder._quantize, 80, **{**rule, "ERROR": str(error)}, ONE_AMAX=True, HEIGHT=1, T=16)
try:
    ptx(coder._quantize, 80, **{**rule, "ERROR": "cubed"}, ONE_AMAX=True, HEIGHT=1, T=16)
except triton.CompilationError as refusal:
    causes = [refusal]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert any("without a case" in str(cause) for cause in causes), causes
else:
    raise AssertionError("a measure of errors that the kernels do not have was compiled")
"""


def test_interpreted_kernels_give_the_references_bits():
    run_kernels(INTERPRETED, interpreted=True)


def test_kernels_compile_and_fuse_no_multiplication_with_an_addition():
    """For compute capability 8.0 and 9.0, without a GPU: a fused product rounds once, not twice."""
    run_kernels(COMPILED, interpreted=False)


def test_kernels_find_their_names_here_as_well():
    """What checks the annotations of the other modules would hide a kernel's module from it."""
    pytest.importorskip("triton", reason="triton is there on x86-64 Linux only")
    from longlive_core.nvfp4.kernels import quantize as kernels

    assert kernels._quantize.__globals__ is vars(kernels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize("chunk", range(10))
def test_compiled_kernels_give_the_references_bits(chunk):
    """Twenty random shapes each, of any rule, type, magnitude and rounding."""
    dice = random.Random(chunk)
    for _ in range(20):
        rows, cols = dice.randint(1, 600), dice.randint(1, 600)
        x = make(dice.choice(KINDS), rows, cols, dice.randrange(2**31))
        x = (x * 2.0 ** dice.randint(-20, 3)).to(dice.choice(DTYPES)).cuda()
        rule = dice.choice(list(ScaleRule))
        config = QuantizeConfig(
            rule=rule,
            bound=dice.choice(rule.bounds),
            block=dice.choice([(1, 16), (16, 16)]),
            rounding=dice.choice(["nearest", "stochastic"]),
        )
        seed = dice.randrange(2**31)

        def drawn(backend, x=x, config=config, seed=seed):
            generator = torch.Generator().manual_seed(seed)
            return quantize(x, config, generator=generator, backend=backend)

        got, want, on_cpu = drawn("triton"), drawn("reference"), drawn("reference", x=x.cpu())
        for name, tensor in got.tensors().items():
            assert_bitwise_equal(tensor, want.tensors()[name], f"{config} {name}")
            assert_bitwise_equal(tensor.cpu(), on_cpu.tensors()[name], f"{config} {name} on CPU")
        dtype = dice.choice(DTYPES)
        assert_bitwise_equal(
            dequantize(got, dtype, backend="triton"), dequantize(want, dtype, backend="reference")
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_transpose_in_the_same_pass_gives_the_references_bits(rotated, rounding, dtype):
    for rule, (rows, cols) in zip(
        ScaleRule, [(64, 64), (7, 300), (513, 80), (256, 1024), (1, 1)], strict=True
    ):
        x = make("row scales", rows, cols).to(dtype).cuda()
        config = QuantizeConfig(rule=rule, rounding=rounding)
        pairs = [
            quantize_both(
                x,
                config,
                rotate=rotated,
                generator=torch.Generator().manual_seed(9),
                backend=backend,
            )
            for backend in ("triton", "reference")
        ]
        for got, want in zip(*pairs, strict=True):
            for name, tensor in got.tensors().items():
                assert_bitwise_equal(tensor, want.tensors()[name], f"{rule} {name}")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
def test_bad_values_propagate_alike():
    x = make("normal", 64, 64).cuda()
    x[3, 5] = float("nan")
    x[9, 7] = float("inf")
    for amax in (None, torch.tensor(4.0, device="cuda")):
        got, want = (quantize(x, amax=amax, backend=b) for b in ("triton", "reference"))
        assert_bitwise_equal(got.codes, want.codes)
        assert_bitwise_equal(got.block_scales, want.block_scales)
        assert torch.equal(tensor_amax(x).isnan().cpu(), torch.tensor(True))
        assert torch.equal(got.dequantize().isnan(), want.dequantize().isnan())
