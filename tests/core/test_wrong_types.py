"""Values of a wrong type, refused in words where they are given: as a person meets them.

In a process of its own, because the tests' own checks of annotations would come first.
"""

import subprocess
import sys

SCRIPT = """
import re
import torch
from longlive_core.eight_bit.rowwise import encode_rows
from longlive_core.float8 import (
    Float8Config, Float8Linear, Float8PageCodec, Float8TrainingConfig, Float8WireCodec
)
from longlive_core import float8
from longlive_core.async_decode import AsyncDecodeScheduler
from longlive_core.attention import ATTENTION, AttentionMask, attention
from longlive_core.backends import BackendUnavailable, Request
from longlive_core.kv_cache import *
from longlive_core.noise import gaussian
from longlive_core.nvfp4 import *
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from longlive_models.diffusion import add_noise
from longlive_models.first_frame import image_to_pixels
from longlive_models.lora import add_lora
from longlive_models.video import contact_sheet, write_png

X = torch.ones(4, 32)
Q = quantize(X)
INTS = torch.ones(4, 32, dtype=torch.int64)
ONE = torch.tensor(1.0)
PARTS = {"codes": Q.codes, "block_scales": Q.block_scales, "amax": Q.amax}
SHAPE = (1, 2, 2, 16)
LAYOUT = CacheLayout(layers=1, heads=2, head_dim=16, tokens_per_page=2)
PAGE = Q4 = torch.ones(SHAPE)
PARTITION = BalancedPartition(frames=2, ranks=1, tokens_per_frame=1, copies=1)
SP = BalancedSP(SequenceGroup(), PARTITION, heads=2)
REQUEST = Request(device=torch.device("cpu"), dtype=torch.float32, head_dim=16)


def begun():
    cache = PagedKVCache(LAYOUT, Window(), PlainCodec(torch.float32))
    cache.begin_block(0)
    return cache


def gpu(call):
    # fails without a GPU
    if torch.cuda.is_available():
        raise ValueError("gpu")
    call()


def write(codec, dtype):
    codec.write(codec.allocate(1, SHAPE, torch.device("cpu")), 0, torch.ones(SHAPE).to(dtype))


def stored(**changes):
    return QuantizeConfig.from_dict(QuantizeConfig().to_dict() | changes)


REFUSED = {
    "got 'mse': write QuantizeConfig": lambda: LinearConfig(weight="mse"),
    "LinearConfig.activation is a QuantizeConfig": lambda: LinearConfig(activation=4),
    "LinearConfig.backend is a string, got None": lambda: LinearConfig(backend=None),
    "keep=5 is no rule of what stays": lambda: convert_linears(torch.nn.Module(), keep=5),
    "keep=.'head', None.* is no rule": lambda: convert_linears(
        torch.nn.Module(), keep=("head", None)
    ),
    "LinearConfig.strict is True or False, got 'no'": lambda: LinearConfig(strict="no"),
    "TrainingConfig.gradient is a QuantizeConfig": lambda: TrainingConfig(gradient="mse"),
    "TrainingConfig.hadamard is True or False, got 1": lambda: TrainingConfig(hadamard=1),
    "TrainingConfig.backend is a string": lambda: TrainingConfig(backend=3),
    "scaling='rows'.*choose 'row'": lambda: Float8Config(scaling="rows"),
    "Float8Config.backend is a string": lambda: Float8Config(backend=4),
    "Float8Config.strict is True or False": lambda: Float8Config(strict=None),
    "Float8TrainingConfig.forward is True or False, got 1": lambda: Float8TrainingConfig(forward=1),
    "Float8TrainingConfig.strict is True": lambda: Float8TrainingConfig(strict=None),
    "Float8TrainingConfig.backend is a string": lambda: Float8TrainingConfig(backend=4),
    "Float8PageCodec.backend is a string": lambda: Float8PageCodec(backend=4),
    "NVFP4PageCodec.backend is a string": lambda: NVFP4PageCodec(backend=4),
    "NVFP4WireCodec.backend is a string": lambda: NVFP4WireCodec(backend=4),
    "no scale rule 'amax6'; did you mean 'amax_6'": lambda: QuantizeConfig(rule="amax6"),
    "no scale rule 6. The rules: amax_6, amax_4": lambda: QuantizeConfig(rule=6),
    "no scale rule 'x'": lambda: NVFP4PageCodec(rule="x"),
    "no scale rule 'y'": lambda: NVFP4WireCodec(rule="y"),
    "bound is a whole number, got 448.0": lambda: QuantizeConfig(bound=448.0),
    "bound is a whole number, got True": lambda: QuantizeConfig(bound=True),
    r"block=\\(1.0, 16.0\\)": lambda: QuantizeConfig(block=(1.0, 16.0)),
    r"block=\\[1, 16\\]": lambda: QuantizeConfig(block=[1, 16]),
    "block=None": lambda: QuantizeConfig(block=None),
    "rounding=None": lambda: QuantizeConfig(rounding=None),
    "no scale rule 'z'": lambda: stored(rule="z"),
    "bound is a whole number, got '448'": lambda: stored(bound="448"),
    "block=16": lambda: stored(block=16),
    r"block=\\(1, '16'\\)": lambda: stored(block=[1, "16"]),
    "the fields rule, bound, block, rounding": lambda: stored(more=1),
    "the fields rule, bound": lambda: QuantizeConfig.from_dict({"rule": "amax_6"}),
    "the fields rule": lambda: QuantizeConfig.from_dict("amax_6"),
    "in_features is a whole number, got 1.5": lambda: NVFP4Linear(1.5, 2),
    "out_features is a whole number, got True": lambda: NVFP4TrainingLinear(4, True),
    "out_features is a whole number, got '16'": lambda: Float8Linear(16, "16"),
    "what nvfp4 quantizes is a tensor, got .1.0, 2.0": lambda: quantize([1.0, 2.0]),
    "quantizes float32.*got torch.int64": lambda: quantize(INTS),
    "largest magnitude to be expected": lambda: quantize(X, amax="3"),
    "amax is a finite number, got nan: it is the largest.*Leave it out": lambda: quantize(
        X, amax=float("nan")),
    "amax is a finite number, got inf": lambda: fake_quantize(X, amax=float("inf")),
    "amax is 0, and the tensor has numbers other than 0": lambda: quantize(X, amax=0),
    "amax is at least 0, got -1": lambda: quantize_both(X, amax=-1),
    "amax is at most 3.4": lambda: quantize(X, amax=1e39),
    "an amax of inf: it is the largest": lambda: quantize(X, amax=ONE * float("inf")),
    "amax has numbers, got a tensor of shape .* on 'meta'": lambda: quantize(
        X, amax=ONE.to("meta")),
    "what nvfp4 quantizes is a dense tensor, got one of layout sparse_coo": lambda: quantize(
        X.to_sparse()),
    "mixes is a dense tensor, got one of layout sparse_csr": lambda: rotate(X.to_sparse_csr()),
    "config is a QuantizeConfig": lambda: quantize(X, "mse"),
    "backend is a string, got 3": lambda: quantize(X, backend=3),
    "dequantize reads is a NVFP4Tensor, got 'x': it holds codes": lambda: dequantize("x"),
    "dequantize's dtype is a float type, got 'float32'": lambda: dequantize(Q, "float32"),
    "dequantize's out is a tensor, got 3": lambda: dequantize(Q, out=3),
    "NVFP4Tensor.to is 'cuda', a GPU, and this torch|^gpu": lambda: gpu(lambda: Q.to("cuda")),
    "groups is a whole number, got '2'": lambda: tensor_amax(X, "2"),
    "from_tensors takes codes, block_scales, amax by name": lambda: NVFP4Tensor.from_tensors(
        None, config=Q.config, shape=Q.shape),
    "the model is a Module, got 'x'": lambda: convert_linears("x"),
    "the model is a Module, got 3": lambda: float8.convert_linears(3),
    "config is a LinearConfig or a TrainingConfig, got 'w4a4'": lambda: convert_linears(
        torch.nn.Module(), "w4a4"),
    "device is no device, 'gpu': write 'cpu'": lambda: convert_linears(
        torch.nn.Module(), device="gpu"),
    "from_linear's linear is a Linear, got None": lambda: NVFP4Linear.from_linear(None),
    "from_packed's weight is a NVFP4Tensor": lambda: NVFP4Linear.from_packed(X),
    "nvfp4.matmul's b is a NVFP4Tensor": lambda: matmul(X, X),
    "a and b are on one device, got meta and cpu": lambda: matmul(X.to("meta"), Q),
    "float8.quantize rounds is a tensor, got .1.0.": lambda: float8.quantize([1.0]),
    "float8.quantize's scaling is a Scaling, got 'row'": lambda: float8.quantize(X, "row"),
    "rows of one number or more": lambda: float8.quantize(torch.ones(4, 0)),
    "float8.dequantize reads is a Float8Tensor": lambda: float8.dequantize(Q),
    "float8.matmul's b is a Float8Tensor": lambda: float8.matmul(float8.quantize(X), X),
    "Float8WireCodec decodes rows of 5 bytes": lambda: Float8WireCodec().decode(X, torch.float32),
    "layout is a CacheLayout, got None": lambda: PagedKVCache(None, Window(), PlainCodec()),
    "policy of a cache is a WindowPolicy or a ContentPolicy, got None": lambda: PagedKVCache(
        LAYOUT, None, PlainCodec()),
    "codec of a cache is a PageCodec, got 'plain'": lambda: PagedKVCache(
        LAYOUT, Window(), "plain"),
    "PagedKVCache's device is no device, 'gpu'": lambda: PagedKVCache(
        LAYOUT, Window(), PlainCodec(), "gpu"),
    "keys is a tensor, got .1.": lambda: begun().write(0, [1], [1]),
    "values has numbers, got a tensor of shape .* 'meta'": lambda: begun().write(
        0, PAGE, PAGE.to("meta")),
    "keys is a dense tensor": lambda: begun().write(0, PAGE.to_sparse(), PAGE),
    "clean is True or False, got 1": lambda: begun().write(0, PAGE, PAGE, clean=1),
    "what is restored is a CacheSnapshot, got None": lambda: begun().restore(None),
    "the values of a CacheSnapshot lack 'layout'": lambda: CacheSnapshot.from_dict({}, {}),
    "BalancedSP's group is a SequenceGroup, got None": lambda: BalancedSP(None, None, heads=2),
    "BalancedSP's partition is a BalancedPartition": lambda: BalancedSP(
        SequenceGroup(), None, heads=2),
    "exchange .batch, tokens, heads, head_dim., got shape": lambda: SP.to_heads(X, X, X),
    "dim is at most 1, got 7": lambda: SP.shard(X, 7),
    "a weight for each value": lambda: SP.masked_mean(X, ONE),
    "attention's queries is a tensor, got None": lambda: attention(None, X, X),
    "attention's keys is a dense tensor": lambda: attention(Q4, Q4.to_sparse(), Q4),
    "mask_mod is a function of sample": lambda: AttentionMask("causal", 2, 2),
    "decode is a function of latents and a state": lambda: AsyncDecodeScheduler(None),
    "lane is a str or a Lane, got 5": lambda: AsyncDecodeScheduler(len, lane=5),
    "what is submitted is a tensor, got .1.": lambda: AsyncDecodeScheduler(len).submit([1]),
    "frames of noise are several whole numbers, got 3": lambda: gaussian(0, 3, (2,)),
    "backend is a string, got ..auto..": lambda: ATTENTION.receipt(REQUEST, ["auto"]),
    "attention has no backend 'fa9'; it has": lambda: ATTENTION.named("fa9"),
    "x0 and noise is a tensor, got None": lambda: add_noise(None, X, 0.5),
    "add_lora's config is a LoRAConfig": lambda: add_lora(torch.nn.Module(), 4),
    "an image is .height, width, 3., got": lambda: image_to_pixels(X, 8, 8),
    "a picture is a tensor, got 3": lambda: write_png("a.png", 3),
    "columns is a whole number, got None": lambda: contact_sheet(X, columns=None),
    "got torch.complex64: give magnitudes": lambda: quantize(X, amax=ONE + 1j),
    "single number, of shape": lambda: quantize(ONE),
    "Hadamard transform adds float32": lambda: rotate(INTS),
    r"divisible by 16, got shape \\(\\)": lambda: rotate(ONE),
    "encode_rows takes a matrix of": lambda: encode_rows(INTS, torch.int8),
    "computes in float types, got torch.int64": lambda: matmul(INTS, Q),
    "last dimensions must be equal": lambda: matmul(ONE, Q),
    "values are no whole numbers": lambda: dequantize(Q, torch.int32),
    "encode_rows takes.*got torch.int32": lambda: write(Float8PageCodec(), torch.int32),
    "encode_rows takes.*got torch.bool": lambda: write(Int8PageCodec(), torch.bool),
    "nvfp4 quantizes.*got torch.int32": lambda: write(NVFP4PageCodec(), torch.int32),
    "nvfp4 quantizes.*got torch.bool": lambda: NVFP4WireCodec().encode(X.bool()),
    "encode_rows takes.*torch.uint8": lambda: Float8WireCodec().encode(X.byte()),
    "was it cast on the way": lambda: NVFP4Tensor(
        **PARTS | {"amax": Q.amax.bfloat16()}, config=Q.config, shape=Q.shape),
    "codes of uint8.*got torch.int32": lambda: NVFP4Tensor(
        **PARTS | {"codes": Q.codes.int()}, config=Q.config, shape=Q.shape),
    "got torch.uint8, torch.float32": lambda: NVFP4Tensor(
        **PARTS | {"block_scales": Q.block_scales.float()}, config=Q.config, shape=Q.shape),
    "with config=None: it has a QuantizeConfig": lambda: NVFP4Tensor(
        **PARTS, config=None, shape=Q.shape),
    "at least one dimension": lambda: NVFP4Tensor(**PARTS, config=Q.config, shape=()),
}
for message, call in REFUSED.items():
    try:
        call()
    except (ValueError, BackendUnavailable) as error:
        assert re.search(message, str(error)), f"{message!r} is not in {error}"
    else:
        raise AssertionError(f"not refused: {message}")

for layer in (NVFP4Linear(32, 16), NVFP4TrainingLinear(32, 16), Float8Linear(32, 16)):
    try:
        layer(ONE)
    except ValueError as error:
        assert "multiplies rows of 32 numbers, got a tensor of shape ()" in str(error), error
    else:
        raise AssertionError(layer)

assert QuantizeConfig(rule="four_over_six_mae").rule is ScaleRule.FOUR_OVER_SIX_MAE
assert NVFP4PageCodec(rule="amax_4").rule is ScaleRule.AMAX_4
assert NVFP4WireCodec(rule="amax_4").rule is ScaleRule.AMAX_4
write(Float8PageCodec(), torch.float64)
write(Int8PageCodec(), torch.float64)
"""


def test_wrong_types_are_refused_in_words():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
