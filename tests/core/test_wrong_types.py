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
from longlive_core.kv_cache import Int8PageCodec
from longlive_core.nvfp4 import *

X = torch.ones(4, 32)
Q = quantize(X)
INTS = torch.ones(4, 32, dtype=torch.int64)
ONE = torch.tensor(1.0)
PARTS = {"codes": Q.codes, "block_scales": Q.block_scales, "amax": Q.amax}
SHAPE = (1, 2, 2, 16)


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
    "nvfp4 quantizes a tensor, got .1.0, 2.0": lambda: quantize([1.0, 2.0]),
    "quantizes float32.*got torch.int64": lambda: quantize(INTS),
    "largest magnitude to be expected": lambda: quantize(X, amax="3"),
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
    except ValueError as error:
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
