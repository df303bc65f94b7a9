"""Packed matrices of other libraries: what is written is read back; what is unclear is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, dequantize, quantize
from longlive_core.nvfp4.external_formats import CONVENTIONS, identify

EXACT = ("longlive", "transformer_engine", "torchao", "modelopt")
OPEN = [name for name, one in CONVENTIONS.items() if one.swizzled is None]


CASES = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([(rule, bound) for rule in ScaleRule for bound in rule.bounds]),
        "height": st.sampled_from([1, 16]),
        "rows": st.integers(1, 10),
        "cols": st.integers(1, 9),
        "exponent": st.integers(-20, 20),
        "seed": st.integers(0, 2**31),
    }
)


def packed(kind, height, rows, cols, exponent, seed):
    """A quantized matrix of whole blocks, of any rule, block and magnitude."""
    (rule, bound), generator = kind, torch.Generator().manual_seed(seed)
    x = torch.randn(rows * height, cols * 16, generator=generator) * 10.0**exponent
    return quantize(x, QuantizeConfig(rule=rule, bound=bound, block=(height, 16)))


@pytest.mark.parametrize("name", CONVENTIONS)
@given(case=CASES, swizzled=st.booleans())
def test_what_is_written_is_read_back(name, case, swizzled):
    q = packed(**case)
    convention = CONVENTIONS[name]
    order = swizzled if name in OPEN else None
    tensors = convention.write(q, swizzled=order)
    assert identify(tensors) is convention
    back = convention.read(tensors, config=q.config, shape=q.shape, swizzled=order)
    assert torch.equal(back.codes, q.codes)
    assert torch.equal(back.block_scales.view(torch.uint8), q.block_scales.view(torch.uint8))
    assert (back.config, back.shape) == (q.config, q.shape)
    if name in EXACT:
        assert torch.equal(dequantize(back), dequantize(q))
    else:  # R / A rounds, and A may be next to what it was
        torch.testing.assert_close(dequantize(back), dequantize(q), rtol=4e-7, atol=0)


@pytest.mark.parametrize("name", ["torchao", "modelopt", "compressed_tensors"])
@given(case=CASES)
def test_a_stored_decode_scale_needs_no_rule(name, case):
    q = packed(**case)
    order = False if name in OPEN else None
    back = CONVENTIONS[name].read(CONVENTIONS[name].write(q, swizzled=order), swizzled=order)
    assert back.config == QuantizeConfig()
    torch.testing.assert_close(dequantize(back), dequantize(q), rtol=4e-7, atol=0)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_matrix_of_zeros_stays_zeros(name):
    q = quantize(torch.zeros(3, 32))
    order = True if name in OPEN else None
    tensors = CONVENTIONS[name].write(q, swizzled=order)
    back = CONVENTIONS[name].read(tensors, config=q.config, shape=q.shape, swizzled=order)
    assert dequantize(back).eq(0).all()


SCALES = {
    "longlive": "quantized_weight_amax",
    "transformer_engine": "amax_rowwise",
    "torchao": "per_tensor_scale",
    "modelopt": "weight_scale_2",
    "compressed_tensors": "weight_global_scale",
}


def stored(name, q):
    order = False if name in OPEN else None
    tensors = CONVENTIONS[name].write(q, swizzled=order)
    return tensors, {"config": q.config, "shape": q.shape, "swizzled": order}


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("value", [0.0, -0.5, math.inf, -math.inf, math.nan])
def test_a_tensor_scale_that_is_none_is_refused(name, value):
    tensors, options = stored(name, quantize(torch.randn(128, 64)))
    tensors[SCALES[name]] = torch.full_like(tensors[SCALES[name]], value)
    with pytest.raises(ValueError, match=f"{name} convention cannot be read: its tensor scale"):
        CONVENTIONS[name].read(tensors, **options)


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int32])
def test_a_tensor_scale_that_was_cast_is_refused(name, dtype):
    tensors, options = stored(name, quantize(torch.randn(128, 64)))
    tensors[SCALES[name]] = tensors[SCALES[name]].to(dtype)
    with pytest.raises(ValueError, match=f"{SCALES[name]} is one float32 number.*got {dtype}"):
        CONVENTIONS[name].read(tensors, **options)


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize(
    ("byte", "places", "message"),
    [
        (0x7F, slice(0, 1), "1 of its 512 block scales are NaN"),
        (0xFF, slice(0, 2), "2 of its 512 block scales are NaN"),
        (0xB8, slice(0, 1), "1 of its 512 block scales are negative"),
        (0x00, slice(None), "all of its block scales are 0, and its codes are not"),
    ],
)
def test_a_block_scale_that_is_none_is_refused(name, byte, places, message):
    tensors, options = stored(name, quantize(torch.randn(128, 64)))
    scales = CONVENTIONS[name].names[1]
    changed = tensors[scales].view(torch.uint8).clone()
    changed.view(-1)[places] = byte
    tensors[scales] = changed.view(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=message):
        CONVENTIONS[name].read(tensors, **options)


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize(("code", "scale"), [(0xCC, 0xFF), (0x00, 0x38), (0x88, 0x7F), (0x77, 0)])
def test_a_dead_layer_is_zeros_whatever_else_is_stored(name, code, scale):
    """TorchAO writes NaN scales and codes of -2 for it, ModelOpt scales of 1 or NaN."""
    tensors, options = stored(name, quantize(torch.randn(128, 64)))
    codes, scales = CONVENTIONS[name].names[:2]
    tensors[codes] = torch.full_like(tensors[codes], code)
    bytes_ = torch.full_like(tensors[scales].view(torch.uint8), scale)
    tensors[scales] = bytes_.view(torch.float8_e4m3fn)
    dead = math.inf if name == "compressed_tensors" else 0.0  # it stores R / A
    tensors[SCALES[name]] = torch.full_like(tensors[SCALES[name]], dead)
    back = CONVENTIONS[name].read(tensors, **options)
    assert torch.equal(dequantize(back), torch.zeros(128, 64))
    assert back.scale_problem() is None


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("torchao", "act_per_tensor_scale"),
        ("modelopt", "input_scale"),
        ("compressed_tensors", "input_global_scale"),
    ],
)
def test_a_scale_of_activations_that_is_none_tells_of_a_damaged_file(name, scale):
    tensors, options = stored(name, quantize(torch.randn(128, 64)))
    CONVENTIONS[name].read(tensors | {scale: torch.tensor(0.01)}, **options)
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"its {scale} is .*and a scale is above 0"):
            CONVENTIONS[name].read(tensors | {scale: torch.tensor([value])}, **options)


def test_values_follow_each_documented_equation():
    q = quantize(torch.randn(5, 64), QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.stack((q.codes & 15, q.codes >> 4), -1).flatten(1).long()
    products = grid[codes] * q.block_scales.float().repeat_interleave(16, 1)
    want = dequantize(q)
    got = CONVENTIONS["modelopt"].write(q)["weight_scale_2"] * products
    torch.testing.assert_close(got, want)
    got = products / CONVENTIONS["compressed_tensors"].write(q)["weight_global_scale"]
    torch.testing.assert_close(got, want)
    tensors = CONVENTIONS["transformer_engine"].write(q, swizzled=False)
    assert tensors["rowwise_scale_inv"].shape == (128, 4)
    assert tensors["amax_rowwise"].shape == (1,)


def test_the_original_pads_to_tiles_and_may_store_a_bare_amax():
    q = quantize(torch.randn(20, 48))
    tensors = CONVENTIONS["longlive"].write(q)
    assert tensors["quantized_weight_metadata"].tolist() == [20, 48, 128, 64]
    values = torch.zeros(128, 32, dtype=torch.uint8)
    values[:20, :24] = q.codes
    tensors |= {"quantized_weight_values": values, "quantized_weight_amax": q.amax.reshape(())}
    back = CONVENTIONS["longlive"].read(tensors, config=q.config)
    assert torch.equal(dequantize(back), dequantize(q))


@pytest.mark.parametrize("swizzled", [False, True])
def test_torchao_reads_what_is_written_and_the_other_way(swizzled):
    torchao = pytest.importorskip(
        "torchao.prototype.mx_formats.nvfp4_tensor", reason="torchao is not installed"
    )
    x = torch.randn(48, 128)
    q = quantize(x)
    tensors = CONVENTIONS["torchao"].write(q, swizzled=swizzled)
    theirs = torchao.NVFP4Tensor(
        tensors["qdata"],
        tensors["scale"],
        16,
        torch.float32,
        per_tensor_scale=tensors["per_tensor_scale"],
        is_swizzled_scales=swizzled,
    )
    torch.testing.assert_close(theirs.dequantize(torch.float32), dequantize(q))
    scale = torchao.per_tensor_amax_to_scale(x.abs().amax())
    made = torchao.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale, is_swizzled_scales=swizzled)
    given_tensors = {name: vars(made)[name] for name in ("qdata", "scale", "per_tensor_scale")}
    assert given_tensors["scale"].shape == tensors["scale"].shape
    back = CONVENTIONS["torchao"].read(given_tensors, swizzled=swizzled)
    torch.testing.assert_close(dequantize(back), made.dequantize(torch.float32))
    single = torchao.NVFP4Tensor.to_nvfp4(x)
    back = CONVENTIONS["torchao"].read(
        {"qdata": single.qdata, "scale": single.scale}, swizzled=False
    )
    torch.testing.assert_close(dequantize(back), single.dequantize(torch.float32))


def test_transposed_copies_and_scales_of_activations_are_not_the_matrix():
    q = quantize(torch.randn(4, 32))
    tensors = CONVENTIONS["modelopt"].write(q) | {"input_scale": torch.ones(())}
    assert torch.equal(CONVENTIONS["modelopt"].read(tensors).codes, q.codes)


def written(name: str, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return CONVENTIONS[name].write(quantize(torch.randn(128, 64)), swizzled=False) | changes


@pytest.mark.parametrize(
    ("name", "tensors", "options", "message"),
    [
        ("longlive", {}, {}, "does not say by which rule"),
        ("transformer_engine", {}, {}, "does not say by which rule"),
        ("torchao", {}, {}, "look the same in both orders: pass swizzled"),
        ("modelopt", {}, {"swizzled": True}, "always linear"),
        ("modelopt", {"weight": torch.zeros(128, 32)}, {}, "weight holds bytes.*float32"),
        ("modelopt", {"weight_scale_2": torch.ones(8)}, {}, "one float32 number.*rows or experts"),
        ("modelopt", {"zero_point": torch.ones(1)}, {}, "unknown: zero_point"),
        (
            "modelopt",
            {"weight_scale": torch.zeros(128, 2, dtype=torch.uint8)},
            {},
            "does not hold 128 rows of 4",
        ),
    ],
)
def test_what_is_unclear_or_wrong_is_refused(name, tensors, options, message):
    convention = CONVENTIONS[name]
    order = False if name in OPEN else None
    given_tensors = convention.write(quantize(torch.randn(128, 64)), swizzled=order) | tensors
    with pytest.raises(ValueError, match=message):
        convention.read(given_tensors, **options)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["weight", "bias"], "they hold no packed matrix"),
        (["weight", "weight_scale"], "they hold no packed matrix"),
        (
            ["weight", "weight_scale", "weight_scale_2", "weight_packed", "weight_global_scale"],
            "modelopt and compressed_tensors: which one is meant cannot be told",
        ),
    ],
)
def test_names_that_fit_no_convention_or_two_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        identify(names)


def test_what_a_convention_cannot_say_is_not_written():
    ragged = quantize(torch.randn(3, 20))
    with pytest.raises(ValueError, match="holds whole blocks, got.*padded to"):
        CONVENTIONS["modelopt"].write(ragged)
    grouped = quantize(torch.randn(4, 32), amax=torch.tensor([3.0, 4.0]))
    with pytest.raises(ValueError, match="with one scale, got.*2 amax"):
        CONVENTIONS["modelopt"].write(grouped)
    with pytest.raises(ValueError, match="two orders of scales: say swizzled="):
        CONVENTIONS["torchao"].write(quantize(torch.randn(4, 32)))


def test_padding_is_less_than_a_tile():
    """A tile of 128 rows more than are needed is of another matrix."""
    q = quantize(torch.randn(128, 64))
    convention = CONVENTIONS["transformer_engine"]
    tensors = convention.write(q, swizzled=False)
    scales = tensors["rowwise_scale_inv"]
    options = {"config": q.config, "shape": q.shape, "swizzled": False}
    tensors["rowwise_scale_inv"] = torch.cat((scales.view(torch.uint8),) * 2).view(scales.dtype)
    with pytest.raises(ValueError, match="does not hold 128 rows of 4"):
        convention.read(tensors, **options)
