"""On two and four ranks: losses, gradients and generated latents are those of one rank."""

import pytest
import torch
from torch import Tensor

from longlive_core.float8 import Float8PageCodec, Float8TrainingConfig, Float8WireCodec
from longlive_core.kv_cache import Int8PageCodec, PlainCodec
from longlive_core.nvfp4 import (
    LinearConfig,
    NVFP4PageCodec,
    NVFP4WireCodec,
    QuantizeConfig,
    ScaleRule,
    TrainingConfig,
    convert_linears,
)
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from longlive_models.wan import ParallelTransformer, WanTransformer
from tests.models.wan import on_ranks
from tests.processes import Ranks

RELATIVE = 1e-5


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def check_step(ranks: Ranks, *how: object) -> None:
    ((loss, gradients),) = ranks(1, on_ranks.training_step, *how)
    largest = max(float(gradient.norm()) for gradient in gradients.values())
    for size in (2, 4):
        for got, own in ranks(size, on_ranks.training_step, *how):
            assert got == pytest.approx(loss, rel=RELATIVE)
            assert own.keys() == gradients.keys()
            for name, gradient in own.items():
                if float(gradients[name].norm()) > 1e-6 * largest:  # else it is rounding alone
                    assert relative(gradient, gradients[name]) < RELATIVE, name


@pytest.mark.parametrize(
    ("heads", "kind", "loss_mask", "checkpointing"),
    [
        (4, "whole past", False, False),
        (4, "window", True, True),
        (4, "window", True, "attention"),
        (8, "table", True, False),
        (4, "short", False, False),  # the last block is shorter, so ranks hold unequal parts
    ],
)
def test_a_training_step_is_that_of_one_rank(ranks: Ranks, heads, kind, loss_mask, checkpointing):
    check_step(ranks, heads, kind, loss_mask, checkpointing)


def test_a_training_step_in_four_bits_is_that_of_one_rank(ranks: Ranks):
    """Amaxes are reduced over the group; gradients round to nearest, so that nothing is drawn."""
    nearest = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
    check_step(ranks, 4, "window", True, False, TrainingConfig(gradient=nearest))


def test_a_training_step_in_eight_bits_is_that_of_one_rank(ranks: Ranks):
    """A token has its own scale; those of columns of tokens are reduced over the group."""
    check_step(ranks, 4, "window", True, False, Float8TrainingConfig())


def plain(sp: BalancedSP) -> PlainCodec:
    return PlainCodec(torch.float32)


def nvfp4(sp: BalancedSP) -> NVFP4PageCodec:
    return NVFP4PageCodec(dtype=torch.float32, reduce_amax=sp.max_over_group)


def fp8(sp: BalancedSP) -> Float8PageCodec:
    return Float8PageCodec(dtype=torch.float32)


def int8(sp: BalancedSP) -> Int8PageCodec:
    return Int8PageCodec(dtype=torch.float32)


@pytest.mark.parametrize("pages", [plain, nvfp4, fp8, int8])
def test_generated_latents_are_those_of_one_rank(ranks: Ranks, pages):
    (want,) = ranks(1, on_ranks.generated, pages)
    for size in (2, 4):
        for got in ranks(size, on_ranks.generated, pages):
            assert relative(got, want) < RELATIVE


def test_a_shared_forward_beside_clean_frames_is_that_of_one_rank(ranks: Ranks):
    """Timesteps of each token, in two copies: each finds its place in the whole."""
    (want,) = ranks(1, on_ranks.denoised_beside_clean)
    for size in (2, 3):
        for got in ranks(size, on_ranks.denoised_beside_clean):
            assert relative(got, want) < RELATIVE


def test_four_bit_products_over_four_bit_pages_are_those_of_one_rank(ranks: Ranks):
    both = LinearConfig(activation=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))
    (want,) = ranks(1, on_ranks.generated, nvfp4, None, both)
    for size in (2, 4):
        for got in ranks(size, on_ranks.generated, nvfp4, None, both):
            assert relative(got, want) < RELATIVE


@pytest.mark.parametrize(("wire", "most"), [(Float8WireCodec(), 0.05), (NVFP4WireCodec(), 0.2)])
def test_a_rounding_wire_moves_latents_a_little_the_same_on_all_ranks(ranks: Ranks, wire, most):
    (exact,) = ranks(1, on_ranks.generated, plain)
    two, other = ranks(2, on_ranks.generated, plain, wire)
    assert torch.equal(two, other)
    assert 1e-4 < relative(two, exact) < most
    assert relative(ranks(4, on_ranks.generated, plain, wire)[0], two) < most


def test_text_that_ends_inside_a_ranks_frames_is_refused():
    partition = BalancedPartition(frames=4, ranks=1, tokens_per_frame=4, copies=1)
    sp = BalancedSP(SequenceGroup(), partition, heads=4)
    model = ParallelTransformer(on_ranks.CONFIG, sp)
    assert model(*arguments(segments=2)).shape == (1, 4, 4, 4, 4)
    model.sp = OtherFrames(SequenceGroup(), partition, heads=4)
    with pytest.raises(ValueError, match=r"holds frames 0 to 2, but each of 2 segments.*2 frames"):
        model(*arguments(segments=2))


class OtherFrames(BalancedSP):
    """As a rank would be that holds three of four frames."""

    @property
    def frames(self) -> range:
        return range(3)


def arguments(segments: int) -> tuple[Tensor, Tensor, Tensor]:
    config = on_ranks.CONFIG
    text = torch.randn(1, segments, config.text_len, config.text_dim)
    return torch.randn(1, 4, 4, 4, 4), torch.full((1, 4), 500.0), text


def test_a_parallel_model_changes_nothing_of_the_one_it_is_made_of():
    model = WanTransformer(on_ranks.CONFIG)
    sp = BalancedSP(
        SequenceGroup(),
        BalancedPartition(frames=2, ranks=1, tokens_per_frame=on_ranks.TOKENS, copies=1),
        heads=on_ranks.CONFIG.num_heads,
    )
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    shared = ParallelTransformer.of(model, sp)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert shared.exchange is sp and model.exchange is not sp
    for name, parameter in model.named_parameters():
        assert shared.get_parameter(name) is parameter


def test_linears_that_round_by_one_rank_alone_are_refused():
    model = WanTransformer(on_ranks.CONFIG)
    convert_linears(model, LinearConfig(activation=QuantizeConfig()))
    sp = BalancedSP(
        SequenceGroup(),
        BalancedPartition(frames=2, ranks=1, tokens_per_frame=on_ranks.TOKENS, copies=1),
        heads=on_ranks.CONFIG.num_heads,
    )
    with pytest.raises(ValueError, match="by the largest number of its own rank.*reduce_amax"):
        ParallelTransformer.of(model, sp)
