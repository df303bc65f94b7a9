"""One launch decodes pages to the reference's bits: interpreted on a CPU, compiled on a GPU."""

from dataclasses import replace

import pytest
import torch

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import Int8PageCodec
from longlive_core.nvfp4 import NVFP4PageCodec, ScaleRule
from longlive_core.testing import assert_bitwise_equal
from tests.core.kernel_script import run_kernels

INTERPRETED = """
import warnings
import torch
from longlive_core.eight_bit import page_codec as bytes_codec
from longlive_core.float8 import Float8PageCodec
from longlive_core.eight_bit.kernels import decode_byte_pages
from longlive_core.kv_cache import Int8PageCodec
from longlive_core.nvfp4 import NVFP4PageCodec, ScaleRule, page_codec
from longlive_core.nvfp4.kernels import decode_pages
from longlive_core.testing import assert_bitwise_equal

warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's, where a GPU is silent
generator = torch.Generator().manual_seed(0)

def draw(samples, tokens, heads, head_dim):
    page = torch.randn(samples, tokens, heads, head_dim, generator=generator)
    page *= 2.0 ** torch.randint(-9, 9, (samples, tokens, heads, 1), generator=generator)
    page[0, 0] = 0
    page[0, -1, 0, 0] *= 1e30
    page[-1, 0, -1, 1] = float("nan") if samples > 2 else 1e-40
    return page

def both(codec, stores, slots, outs):
    names, decode, reference, more = (
        (("codes", "block_scales", "amax"), decode_pages, page_codec._reference_decode_pages,
         [codec.config])
        if isinstance(codec, NVFP4PageCodec)
        else (("codes", "scales"), decode_byte_pages, bytes_codec._reference_decode, [])
    )
    parts = [[store[name] for store in stores] for name in names]
    decode.decode_pages(outs[0], *parts, torch.tensor(slots, dtype=torch.int32), *more)
    reference(outs[1], *parts, slots, *more)

rules = (ScaleRule.AMAX_6, ScaleRule.FOUR_OVER_SIX_MSE)
codecs = [*(NVFP4PageCodec(rule=rule) for rule in rules), Float8PageCodec(), Int8PageCodec()]
shapes = [(3, 5, 2, 16), (2, 9, 3, 80), (1, 70, 1, 128)]
kinds = [torch.float32, torch.float16, torch.float32]  # the interpreter truncates to bfloat16
for codec in codecs:
    for number, (shape, dtype) in enumerate(zip(shapes, kinds)):
        samples, tokens, heads, head_dim = shape
        stores = [codec.allocate(4, shape, torch.device("cpu")) for _ in range(2 - number // 2)]
        for store in stores:
            for slot in range(4):
                codec.write(store, slot, draw(*shape))
        slots = [(3, 0, 2), (1,), (2, 3)][number]
        size = len(stores), samples, (len(slots) + 1) * tokens, heads, head_dim
        room = torch.full((2, *size), 7.0, dtype=dtype)
        both(codec, stores, slots, [[x[:, : len(slots) * tokens] for x in part] for part in room])
        got, want = room.nan_to_num(nan=5.0)
        assert_bitwise_equal(got, want, f"{codec} {shape} {dtype}")
"""

COMPILED = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from longlive_core.eight_bit.kernels import decode_byte_pages
from longlive_core.nvfp4.kernels import decode_pages

POINTERS = {"slots_ptr": "*i32", "amax_ptr": "*fp32", "out_ptr": "*bf16"}

def ptx(kernel, capability, pointers, **constants):
    kinds = {**POINTERS, **pointers}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants
                 else kinds.get(re.sub("_[ab]_ptr", "_ptr", name), "i32") for name in names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names)
               if name not in constants and name != "samples"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]

four = {"codes_ptr": "*i32", "scales_ptr": "*u8"}
bytes_ = {"D": 128, "WIDTH": 128, "ROWS": 64}
for kernel, pointers, constants in (
    (decode_pages._decode_pages, four, {"FULL": 1536.0, "W": 1024}),
    (decode_byte_pages._decode_pages, {"codes_ptr": "*u8", "scales_ptr": "*fp32"},
     {**bytes_, "E4M3": True}),
    (decode_byte_pages._decode_pages, {"codes_ptr": "*i8", "scales_ptr": "*fp32"},
     {**bytes_, "E4M3": False}),
):
    for capability in (80, 90):
        code = ptx(kernel, capability, pointers, **constants)
        assert "fma." not in code and ".ftz" not in code, kernel
        assert "ld.global.v4.b32" in code, f"{kernel}: codes are not read 16 bytes at a time"
        stores = set(re.findall(r"st[.]global[.a-z0-9]*", code))
        assert stores == {"st.global.v4.b32"}, f"{kernel}: {stores}, not 16 bytes at a time"
"""


def test_interpreted_kernels_give_the_references_bits():
    run_kernels(INTERPRETED, interpreted=True)


def test_compiled_kernels_move_sixteen_bytes_at_a_time_and_round_as_the_reference():
    """For compute capability 8.0 and 9.0, without a GPU."""
    run_kernels(COMPILED, interpreted=False)


CODECS = (
    NVFP4PageCodec(rule=ScaleRule.AMAX_6),
    NVFP4PageCodec(),
    Float8PageCodec(),
    Int8PageCodec(),
    NVFP4PageCodec(dtype=torch.float16),
    Float8PageCodec(dtype=torch.float32),
)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a CUDA device")
@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("shape", [(1, 7040, 24, 128), (2, 33, 3, 80), (3, 17, 5, 16)])
def test_one_launch_decodes_a_layer_to_the_references_bits(codec, shape):
    """The first shape is the 5B's page: keys and values of 28,160 tokens, 24 heads of 128."""
    samples, tokens, heads, head_dim = shape
    generator = torch.Generator("cuda").manual_seed(0)
    stores = [codec.allocate(4, shape, torch.device("cuda")) for _ in "kv"]
    for store in stores:
        for slot in range(4):
            page = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
            power = torch.randint(-9, 3, (*shape[:3], 1), generator=generator, device="cuda")
            codec.write(store, slot, page * 2.0**power)
    for slots in ((0, 1, 2, 3), (3, 1)):
        size = 2, samples, len(slots) * tokens, heads, head_dim
        got, want = (
            replace(codec, backend=backend).read(
                stores, slots, [*torch.zeros(size, dtype=codec.dtype, device="cuda")]
            )
            for backend in ("triton", "reference")
        )
        for a, b in zip(got, want, strict=True):
            assert_bitwise_equal(a, b, f"slots {slots}")
