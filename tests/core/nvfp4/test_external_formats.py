"""Packed matrices of other libraries: what is written is read back; what is unclear is refused."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, dequantize, quantize
from longlive_core.nvfp4.external_formats import CONVENTIONS, identify, split_rows

EXACT = ("longlive", "transformer_engine", "torchao", "modelopt", "comfyui", "gguf")
APART = [name for name in CONVENTIONS if name != "gguf"]
"""Conventions that have codes and block scales in tensors of their own."""
WIDTH = {"gguf": 64}
"""The number of columns that rows must divide into, where it is not 16."""
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


def packed(kind, height, rows, cols, exponent, seed, width=16):
    """A quantized matrix of whole blocks, of any rule, block and magnitude."""
    (rule, bound), generator = kind, torch.Generator().manual_seed(seed)
    x = torch.randn(rows * height, cols * width, generator=generator) * 10.0**exponent
    return quantize(x, QuantizeConfig(rule=rule, bound=bound, block=(height, 16)))


@pytest.mark.parametrize("name", CONVENTIONS)
@given(case=CASES, swizzled=st.booleans())
def test_what_is_written_is_read_back(name, case, swizzled):
    q = packed(**case, width=WIDTH.get(name, 16))
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


@pytest.mark.parametrize(
    "name", ["torchao", "modelopt", "compressed_tensors", "comfyui", "mlx", "gguf"]
)
@given(case=CASES)
def test_a_stored_decode_scale_needs_no_rule(name, case):
    q = packed(**case, width=WIDTH.get(name, 16))
    order = False if name in OPEN else None
    tensors = CONVENTIONS[name].write(q, swizzled=order)
    back = CONVENTIONS[name].read(tensors, shape=q.shape, swizzled=order)
    assert back.config == QuantizeConfig()
    torch.testing.assert_close(dequantize(back), dequantize(q), rtol=4e-7, atol=0)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_matrix_of_zeros_stays_zeros(name):
    q = quantize(torch.zeros(3, 64))
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
    "comfyui": "weight_scale_2",
    "mlx": "global_scale",
    "gguf": "scale",
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


@pytest.mark.parametrize("name", APART)
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
    tensors[scales] = changed.view(tensors[scales].dtype)
    with pytest.raises(ValueError, match=message):
        CONVENTIONS[name].read(tensors, **options)


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize(("code", "scale"), [(0xCC, 0xFF), (0x00, 0x38), (0x88, 0x7F), (0x77, 0)])
def test_a_dead_layer_is_zeros_whatever_else_is_stored(name, code, scale):
    """TorchAO writes NaN scales and codes of -2 for it, ModelOpt scales of 1 or NaN."""
    tensors, options = stored(name, quantize(torch.randn(128, 64)))
    codes, scales = CONVENTIONS[name].names[:2]
    tensors[codes] = torch.full_like(tensors[codes], code)
    bytes_ = torch.full_like(tensors[scales].view(torch.uint8), scale)
    tensors[scales] = bytes_.view(tensors[scales].dtype)
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


GRID = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def test_comfyui_has_the_first_value_in_the_high_nibble():
    q = quantize(torch.randn(20, 80))
    tensors = CONVENTIONS["comfyui"].write(q)
    assert tensors["weight"].shape == (32, 40)  # rows are padded to multiples of 16
    assert tensors["weight_scale"].shape == (128, 8)  # and scales to whole tiles
    assert bytes(tensors["comfy_quant"].tolist()) == b'{"format": "nvfp4"}'
    first = tensors["weight"][:20] >> 4
    assert torch.equal(first, q.codes & 15)
    back = CONVENTIONS["comfyui"].read(tensors, shape=q.shape)
    assert torch.equal(dequantize(back), dequantize(q))


def test_gguf_has_values_that_are_eight_apart_in_a_byte():
    q = quantize(torch.randn(3, 128))
    tensors = CONVENTIONS["gguf"].write(q)
    assert tensors["blocks"].shape == (3, 72)
    block = tensors["blocks"][1, 36:]
    assert torch.equal(block[:4], q.block_scales.view(torch.uint8)[1, 4:])
    values = dequantize(q)[1, 64:80]
    scale = block[:1].view(torch.float8_e4m3fn).float() * tensors["scale"]
    torch.testing.assert_close(GRID[(block[4:12] & 15).long()] * scale, values[:8])
    torch.testing.assert_close(GRID[(block[4:12] >> 4).long()] * scale, values[8:])


def test_mlx_has_eight_codes_in_a_word_and_may_have_no_global_scale():
    q = quantize(torch.randn(2, 64))
    tensors = CONVENTIONS["mlx"].write(q)
    assert (tensors["weight"].dtype, tuple(tensors["weight"].shape)) == (torch.uint32, (2, 8))
    assert tensors["scales"].dtype == torch.uint8
    del tensors["global_scale"]
    products = GRID[torch.stack((q.codes & 15, q.codes >> 4), -1).flatten(1).long()]
    want = products * q.block_scales.float().repeat_interleave(16, 1)
    back = CONVENTIONS["mlx"].read(tensors)
    torch.testing.assert_close(dequantize(back), want, rtol=2e-7, atol=0)


def test_a_file_without_comfyuis_marker_whose_scales_are_padded_is_not_taken_for_modelopt():
    tensors = CONVENTIONS["comfyui"].write(quantize(torch.randn(32, 32)))
    assert identify(tensors) is CONVENTIONS["comfyui"]
    del tensors["comfy_quant"]
    with pytest.raises(ValueError, match="never padded in this convention.*Say which it is"):
        identify(tensors).read(tensors)


@pytest.mark.parametrize(
    ("marker", "said"), [(b'{"format": "mxfp8"}', "'mxfp8'"), (b"nonsense", "None")]
)
def test_a_marker_of_another_format_is_refused(marker, said):
    tensors = CONVENTIONS["comfyui"].write(quantize(torch.randn(32, 32)))
    tensors["comfy_quant"] = torch.tensor(list(marker), dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"the format is {said}, and 'nvfp4'"):
        CONVENTIONS["comfyui"].read(tensors)


def test_words_and_blocks_of_another_kind_are_refused():
    tensors = CONVENTIONS["mlx"].write(quantize(torch.randn(4, 64)))
    with pytest.raises(ValueError, match="words of 32 bits with eight codes, got torch.uint8"):
        CONVENTIONS["mlx"].read(tensors | {"weight": torch.zeros(4, 32, dtype=torch.uint8)})
    with pytest.raises(ValueError, match="unknown: biases"):  # integers with offsets
        CONVENTIONS["mlx"].read(tensors | {"biases": torch.zeros(4)})
    with pytest.raises(ValueError, match="36 bytes for 64 values, got shape \\(4, 34\\)"):
        CONVENTIONS["gguf"].read({"blocks": torch.zeros(4, 34, dtype=torch.uint8)})
    with pytest.raises(ValueError, match="blocks of 64 values, and rows of 48"):
        CONVENTIONS["gguf"].write(quantize(torch.randn(4, 48)))


@pytest.mark.parametrize("name", ["modelopt", "comfyui"])
@given(ratios=st.tuples(*[st.floats(0.25, 4.0)] * 3), rows=st.integers(1, 3))
def test_scales_of_queries_keys_and_values_stay_with_their_rows(name, ratios, rows):
    parts = [quantize(torch.randn(16 * rows, 64) * ratio) for ratio in ratios]
    fused = replace(
        parts[0],
        codes=torch.cat([q.codes for q in parts]),
        block_scales=torch.cat([q.block_scales.view(torch.uint8) for q in parts]).view(
            torch.float8_e4m3fn
        ),
        shape=(48 * rows, 64),
    )
    tensors = CONVENTIONS[name].write(fused)
    scales = [CONVENTIONS[name].write(q)["weight_scale_2"] for q in parts]
    tensors["weight_scale_2"] = torch.stack(scales)
    with pytest.raises(ValueError, match="one float32 number for the matrix, got 3"):
        CONVENTIONS[name].read(tensors)
    whole = CONVENTIONS[name].read(tensors, groups=3)
    for part, q in zip(split_rows(whole, 3), parts, strict=True):
        assert torch.equal(dequantize(part), dequantize(q))


def test_rows_that_do_not_divide_are_not_split():
    q = quantize(torch.randn(32, 64), QuantizeConfig(block=(16, 16)))
    assert len(split_rows(q, 2)) == 2
    for parts in (3, 4):
        with pytest.raises(ValueError, match=f"does not divide into {parts} parts of whole blocks"):
            split_rows(q, parts)
