"""The public functions: accuracy, seeds, shapes, gradients, choices, and TorchAO."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable, Request
from longlive_core.nvfp4 import (
    DEQUANTIZE,
    QUANTIZE,
    QUANTIZE_BOTH,
    QuantizeConfig,
    ScaleRule,
    dequantize,
    fake_quantize,
    quantize,
    quantize_both,
    reference,
    rotate,
    tensor_amax,
)
from longlive_core.testing import assert_bitwise_equal
from tests.core.nvfp4.matrices import DTYPES, configs, make, matrices

CPU = Request(device=torch.device("cpu"), dtype=torch.float32)
STOCHASTIC = QuantizeConfig(rounding="stochastic")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_same(a, b):
    for name, tensor in a.tensors().items():
        assert_bitwise_equal(tensor, b.tensors()[name], name)
    assert (a.config, a.shape) == (b.config, b.shape)


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        (ScaleRule.AMAX_6, 9.0e-3, 9.1e-3),
        (ScaleRule.AMAX_4, 9.6e-3, 9.7e-3),
        (ScaleRule.FOUR_OVER_SIX_MSE, 7.5e-3, 7.6e-3),
        (ScaleRule.FOUR_OVER_SIX_MAE, 7.7e-3, 7.9e-3),
        (ScaleRule.FOUR_OVER_SIX_ABS_MAX, 7.9e-3, 8.1e-3),
    ],
)
def test_relative_error_on_gaussian_data(rule, low, high):
    x = torch.randn(1024, 4096, generator=seeded())
    error = dequantize(quantize(x, QuantizeConfig(rule=rule))) - x
    assert low <= float(error.square().sum() / x.square().sum()) <= high


@given(matrices(), configs(), st.integers(-98, 98))
def test_any_shape_type_and_magnitude_is_within_the_formats_error(x, config, exponent):
    """Each value is within a fifth of its block's largest, or lost below the smallest scale."""
    x = (x.float() * 2.0**exponent).clamp(-1e30, 1e30)
    y = dequantize(quantize(x, config))
    assert y.shape == x.shape
    assert y.isfinite().all()
    rows, cols = x.shape
    height = config.block[0]
    padded = torch.nn.functional.pad(x, (0, -cols % 16, 0, -rows % height))
    tiles = reference.split_blocks(padded, config.block)
    block_amax = tiles.abs().amax(-1).repeat_interleave(height, 0)[:rows].repeat_interleave(16, 1)
    lost = x.abs().max() / config.full_scale * 2.0**-10 * 6  # half the smallest scale
    assert ((y - x).abs() <= block_amax[:, :cols] / 4.999 + lost * 1.01).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_type_of_the_input_does_not_matter_once_its_values_are_fixed(dtype):
    x = make("normal", 8, 64).to(dtype)
    assert_same(quantize(x), quantize(x.float()))
    assert dequantize(quantize(x), dtype).dtype == dtype
    assert_bitwise_equal(dequantize(quantize(x), dtype), dequantize(quantize(x)).to(dtype))


def test_a_view_is_quantized_as_what_it_shows():
    x = torch.randn(6, 40)
    assert_same(quantize(x[:, 3:35].t()), quantize(x[:, 3:35].t().contiguous()))
    stacked = torch.randn(2, 3, 32)
    assert_bitwise_equal(quantize(stacked).codes, quantize(stacked.view(6, 32)).codes)


def test_amax_of_a_tensor_and_of_its_groups():
    x = make("normal", 6, 32)
    x[5, 1] = -9.0
    assert tensor_amax(x).item() == 9.0
    assert_bitwise_equal(tensor_amax(x.bfloat16(), 3)[2], torch.tensor(9.0))
    x[0, 0], x[2, 0] = math.nan, math.inf
    assert tensor_amax(x, 3).isnan().tolist() == [True, True, False]
    with pytest.raises(ValueError, match="6 rows make no 4 equal groups"):
        tensor_amax(x, 4)


@pytest.mark.parametrize("call", [quantize, quantize_both, fake_quantize, tensor_amax])
def test_other_types_are_refused(call):
    with pytest.raises(ValueError, match=r"got torch.float64.*Convert the tensor first"):
        call(torch.zeros(2, 16, dtype=torch.float64))


def test_what_is_no_tensor_or_has_no_last_dimension_is_refused():
    for call in (quantize, fake_quantize):
        with pytest.raises(ValueError, match=r"a single number.*x.reshape\(1\)"):
            call(torch.tensor(2.0))
    with pytest.raises(ValueError, match=r"takes a matrix.*got shape \(2, 3, 16\)"):
        quantize_both(torch.zeros(2, 3, 16))


@pytest.mark.parametrize("shape", [(0, 32), (2, 0, 32), (0, 7)])
@pytest.mark.parametrize("config", [QuantizeConfig(), QuantizeConfig(block=(16, 16)), STOCHASTIC])
def test_no_rows_give_no_codes(shape, config):
    x = torch.zeros(shape, requires_grad=True)
    q = quantize(x, config)
    assert (q.shape, q.codes.numel(), q.amax.item()) == (shape, 0, 0)
    assert q.dequantize().shape == shape
    fake = fake_quantize(x, config)
    fake.sum().backward()
    assert (fake.shape, x.grad.shape) == (shape, shape)
    if len(shape) == 2 and config.block == (1, 16):
        for rotated in (False, True):
            rows, cols = quantize_both(x, config, rotate=rotated)
            assert (rows.shape, cols.shape) == (shape, shape[::-1])
            assert cols.dequantize().shape == shape[::-1]


def test_an_amax_of_any_type_is_used_in_float32():
    x = torch.randn(4, 32).bfloat16()
    want = quantize(x)
    largest = x.abs().max()
    for amax in (largest, largest.double(), largest.item(), largest.requires_grad_()):
        assert_same(quantize(x, amax=amax), want)
        assert_bitwise_equal(fake_quantize(x, amax=amax), want.dequantize(torch.bfloat16))
        assert_same(quantize_both(x, amax=amax)[0], want)
        assert quantize(x, amax=amax).amax.dtype == torch.float32
    assert_same(quantize(x, amax=torch.tensor(3)), quantize(x, amax=3.0))


def test_an_amax_that_is_no_magnitude_is_refused():
    x = torch.randn(4, 32)
    for amax in (torch.tensor(-1.0), torch.tensor([1.0, 1.0, -2.0, 1.0])):
        with pytest.raises(ValueError, match="never negative"):
            quantize(x, amax=amax)
    for amax in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="amax is .*largest magnitude"):
            quantize(x, amax=amax)
    with pytest.raises(ValueError, match="got torch.bool: give magnitudes"):
        quantize(x, amax=torch.tensor(True))
    with pytest.raises(ValueError, match=r"quantize_both got amax of shape \(2,\).*one amax"):
        quantize_both(x, amax=torch.ones(2))


def test_a_matrix_rotated_in_half_precision_stays_finite():
    """Sums of sixteen numbers, a quarter of them, are up to four times the largest."""
    x = torch.full((16, 16), 65504.0, dtype=torch.float16)
    _, cols = quantize_both(x, rotate=True)
    assert_same(cols, quantize(rotate(x.t().float())))
    assert cols.amax > 65504
    assert rotate(x).isinf().any()


def test_into_memory_that_is_there():
    x = torch.randn(2, 5, 32)
    workspace = torch.full((3, 2, 5, 32), math.nan, dtype=torch.bfloat16)
    out = dequantize(quantize(x), out=workspace[1])
    assert out.data_ptr() == workspace[1].data_ptr()
    assert_bitwise_equal(workspace[1], dequantize(quantize(x), torch.bfloat16))
    assert workspace[0].isnan().all() and workspace[2].isnan().all()
    ragged = torch.empty(3, 7)
    assert_bitwise_equal(
        dequantize(quantize(x[0, :3, :7]), out=ragged), dequantize(quantize(x[0, :3, :7]))
    )


# Stochastic rounding


def test_a_seed_fixes_stochastic_rounding_and_scales_do_not_depend_on_it():
    x = make("normal", 32, 64)
    a, b, c = (quantize(x, STOCHASTIC, generator=seeded(s)) for s in (1, 1, 2))
    assert_same(a, b)
    assert not torch.equal(a.codes, c.codes)
    assert_bitwise_equal(a.block_scales, c.block_scales)
    assert_bitwise_equal(a.block_scales, quantize(x).block_scales)
    torch.manual_seed(3)
    first = quantize(x, STOCHASTIC)
    assert not torch.equal(first.codes, quantize(x, STOCHASTIC).codes)
    torch.manual_seed(3)
    assert_same(first, quantize(x, STOCHASTIC))


@pytest.mark.parametrize("rule", [ScaleRule.AMAX_6, ScaleRule.FOUR_OVER_SIX_MSE])
@pytest.mark.parametrize("block", [(1, 16), (16, 16)])
def test_stochastic_rounding_is_unbiased(rule, block):
    """Of n draws the mean is within 6 standard errors, for every value and for their sum.

    The choice between 4 and 6 rests on the errors of nearest rounding, not on the draw, so it
    does not favor either neighbor. Values beyond 6 saturate and are left out.
    """
    draws = 400
    config = QuantizeConfig(rule=rule, block=block, rounding="stochastic")
    x = make("normal", 16, 64)
    q = quantize(x.repeat(draws, 1), config, generator=seeded(7))
    values = q.dequantize().double().view(draws, 16, 64)
    scales = q.block_scales[:16].double().repeat_interleave(16, 1)
    step = scales * (x.abs().max().double() / config.full_scale)
    ratio = x.double().abs() / step
    inside = ratio <= 6
    gap = torch.where(ratio < 2, 0.5, torch.where(ratio < 4, 1.0, 2.0))
    share = ratio / gap - (ratio / gap).floor()
    deviation = gap * step * (share * (1 - share) / draws).sqrt()
    off = (values.mean(0) - x.double()).abs()
    assert (off <= 6 * deviation + 1e-6 * step)[inside].all()
    total = ((values.mean(0) - x.double())[inside]).sum().abs()
    assert total <= 6 * deviation[inside].square().sum().sqrt()
    assert inside.double().mean() > 0.9


# With the transpose


@given(
    matrices(max_rows=40, max_cols=50),
    st.sampled_from(ScaleRule),
    st.booleans(),
    st.sampled_from(["nearest", "stochastic"]),
)
def test_a_matrix_with_its_transpose_is_both_quantized_from_the_matrix(x, rule, rotated, rounding):
    config = QuantizeConfig(rule=rule, rounding=rounding)
    generator = seeded(11)
    rows, cols = quantize_both(x, config, rotate=rotated, generator=seeded(11))
    assert_same(rows, quantize(x, config, generator=generator))
    transposed = torch.nn.functional.pad(x.t(), (0, -x.shape[0] % 16))
    if rotated:  # float16 has no room for the sums
        transposed = rotate(transposed.float() if x.dtype == torch.float16 else transposed)
    want = quantize(transposed, config, generator=generator)
    assert_bitwise_equal(cols.codes, want.codes)
    assert_bitwise_equal(cols.block_scales, want.block_scales)
    assert_bitwise_equal(cols.amax, want.amax)
    assert cols.shape == (x.shape[1], x.shape[0])


def test_square_blocks_need_no_second_pass():
    with pytest.raises(ValueError, match=r"blocks of \(1, 16\).*quantize\(x\).transpose"):
        quantize_both(torch.zeros(16, 16), QuantizeConfig(block=(16, 16)))


# Gradients


def test_fake_quantization_rounds_and_passes_the_gradient():
    x = torch.randn(2, 3, 40, requires_grad=True)
    y = fake_quantize(x, QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))
    assert_bitwise_equal(
        y.detach(), dequantize(quantize(x, QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)))
    )
    upstream = torch.randn_like(x)
    y.backward(upstream)
    assert_bitwise_equal(x.grad, upstream)
    half = fake_quantize(x.detach().bfloat16(), STOCHASTIC, generator=seeded())
    assert half.dtype == torch.bfloat16


def test_codes_carry_no_gradient():
    q = quantize(torch.randn(2, 16, requires_grad=True))
    assert not any(tensor.requires_grad for tensor in q.tensors().values())


def test_the_library_operations_are_what_they_claim():
    x, seed = torch.randn(4, 32), torch.tensor(3)
    config, nearest = (f"amax_6 448 1x16 {rounding}" for rounding in ("stochastic", "nearest"))
    ops = torch.ops.longlive
    codes, scales = ops.nvfp4_quantize(x, tensor_amax(x), seed, config, "auto")
    for op, arguments in (
        (ops.nvfp4_quantize, (x, tensor_amax(x), seed, config, "auto")),
        (
            ops.nvfp4_quantize_both,
            (torch.randn(16, 32), tensor_amax(x), None, nearest, True, "auto"),
        ),
        (ops.nvfp4_dequantize, (codes, scales, tensor_amax(x), config, torch.float16, "auto")),
        (
            ops.nvfp4_dequantize_into,
            (torch.empty(4, 32), codes, scales, tensor_amax(x), config, "auto"),
        ),
        (
            ops.nvfp4_fake_quantize,
            (x.requires_grad_(), tensor_amax(x), None, nearest, "auto"),
        ),
    ):
        checks = "test_autograd_registration", "test_faketensor"  # the others multiply float8
        torch.library.opcheck(op, arguments, test_utils=checks)


# Choices


@pytest.mark.parametrize("operation", [QUANTIZE, QUANTIZE_BOTH, DEQUANTIZE], ids=lambda o: o.name)
def test_the_choice_is_told_and_nothing_falls_back(operation):
    receipt = operation.receipt(CPU)
    assert receipt.backend == "reference"
    assert receipt.reasons["triton"] == "it needs a CUDA device, not cpu"
    with pytest.raises(BackendUnavailable, match="'triton' on cpu: it needs a CUDA device"):
        operation.select(CPU, "triton")


def test_a_named_backend_that_cannot_run_raises():
    x = torch.zeros(2, 16)
    for call in (quantize, fake_quantize, quantize_both):
        with pytest.raises(BackendUnavailable, match="'triton' on cpu"):
            call(x, backend="triton")
    with pytest.raises(BackendUnavailable, match="has no backend 'marlin'; it has triton, refer"):
        dequantize(quantize(x), backend="marlin")


# Other people's code as the judge


def torchao_quantize():
    pytest.importorskip("torchao", reason="torchao is an oracle of the test extra")
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize

    return nvfp4_quantize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["normal", "ties", "one outlier"])
def test_torchao_agrees_but_for_its_order_of_operations(dtype, kind):
    """TorchAO divides where the reference multiplies: a scale may differ by a step at a tie.

    Its scales start at 2**-6, and it gives NaN for zeros; these inputs have neither.
    """
    x = make(kind, 256, 512).clamp(-300, 300).to(dtype) + 0.0  # TorchAO keeps the sign of -0.0
    q = quantize(x)
    scales, codes = torchao_quantize()(x, 16, (tensor_amax(x) / (448 * 6)).to(torch.float32))
    ours, theirs = q.block_scales.view(torch.uint8).int(), scales.view(torch.uint8).int()
    steps = (ours - theirs.view(ours.shape)).abs()
    floor = q.block_scales.float() < 2**-6
    assert steps[~floor].max() <= 1
    assert (steps[~floor] > 0).float().mean() <= 0.02
    same = ((steps == 0) & ~floor).repeat_interleave(8, 1)
    different = (codes.view(torch.uint8).view(q.codes.shape) != q.codes) & same
    assert different.float().mean() <= 1e-3


def test_torchao_decodes_what_we_write():
    from_theirs = torchao_quantize()  # skips where torchao is not
    assert from_theirs is not None
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor as Theirs

    q = quantize(make("normal", 64, 128))
    scale = (q.amax / q.config.full_scale).reshape(())
    theirs = Theirs(q.codes, q.block_scales, 16, torch.float32, scale)
    torch.testing.assert_close(theirs.dequantize(torch.float32), q.dequantize(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("rule", ScaleRule)
def test_the_mean_of_random_rounding_is_the_value_as_far_as_six_steps_reach(rule):
    """A scale that was rounded down leaves the largest value of a block beyond them."""
    config, draws = QuantizeConfig(rule=rule, rounding="stochastic"), 1000
    x = make("normal", 16, 64)
    total = torch.zeros(16, 64, dtype=torch.float64)
    for seed in range(draws):
        q = quantize(x, config, generator=seeded(seed))
        total += q.dequantize()
    step = q.block_scales.double().repeat_interleave(16, 1) * (q.amax.double() / config.full_scale)
    want = x.double().clamp(-6 * step, 6 * step)
    # neighbors are two steps apart at most: Hoeffding, one failure in 1e9
    bound = 2 * step * math.sqrt(math.log(2 * x.numel() * 1e9) / (2 * draws))
    assert ((total / draws - want).abs() <= bound).all()
    short = want.abs() < x.double().abs() * (1 - 1e-6)
    assert short.any() == (rule is not ScaleRule.AMAX_4)
    assert (want.abs() >= x.double().abs() * (16 / 17) * (1 - 1e-6)).all()
