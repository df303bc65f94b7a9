"""Errors of a batch put together at once, against adding one after another, to the last bit."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longlive_models.objectives import ErrorBankConfig, ErrorRecycler, ErrorRecycling
from longlive_models.objectives.chosen_errors import put_together
from longlive_models.objectives.error_bank import Chosen

CHANNELS, SIZE = 3, 2


def one_by_one(
    made: ErrorRecycler, latents: Tensor, noise: Tensor, index: Tensor, chance: random.Random
) -> tuple[Tensor, Tensor, Tensor]:
    """Start, noise and context with what ``sample`` gives added in place, block by block."""
    config, size = made.config, made.frames_per_block

    def add(to: Tensor, find) -> Tensor:
        to = to.clone()
        for clip, row in enumerate(index[:, ::size].tolist()):
            for block, at in enumerate(row):
                if (error := find(block, at)) is not None:
                    to[clip, :, block * size : (block + 1) * size] += error.to(to)
        return to

    latent, other, start, context = made.latent_errors, made.noise_errors, latents, latents
    if chance.random() < config.clean:
        return start, noise, context
    if other.added and chance.random() < config.noise:
        noise = add(noise, lambda b, at: other.sample(at, chance, block=b))
    if latent.added and chance.random() < config.start:
        start = add(start, lambda b, at: latent.sample(at, chance, block=b))
    if latent.added and chance.random() < config.context:
        spared = 1 if config.spare_first_block else 0
        context = add(
            context, lambda b, _: latent.sample_any(chance, block=b) if b >= spared else None
        )
    return start, noise, context


def taught(config: ErrorRecycling, dtype: torch.dtype, seed: int) -> ErrorRecycler:
    made, chance = ErrorRecycler(config, frames_per_block=SIZE, dtype=dtype), random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    for bank in (made.latent_errors, made.noise_errors):
        for _ in range(chance.randrange(12)):
            error = torch.randn(CHANNELS, SIZE, 2, 1, generator=generator)
            bank.add(error, chance.randrange(1000), chance, block=chance.randrange(3))
    return made


@given(
    st.integers(0, 2**20),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([torch.bfloat16, torch.float32]),
    st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_a_batch_is_what_adding_one_after_another_makes(
    seed, modulation, blocks, spared, kept, dtype
):
    bank = ErrorBankConfig(buckets=3, bucket_size=2, modulation=modulation, blocks=blocks)
    config = ErrorRecycling(
        context=0.8, start=0.8, noise=0.8, clean=0.1, spare_first_block=spared, bank=bank
    )
    made = taught(config, kept, seed)
    generator = torch.Generator().manual_seed(seed)
    latents, noise = torch.randn(2, 2, CHANNELS, 3 * SIZE, 2, 1, generator=generator).to(dtype)
    index = torch.randint(0, 1000, (2, 3), generator=generator).repeat_interleave(SIZE, 1)
    chances = random.Random(seed), random.Random(seed)
    wanted = one_by_one(made, latents, noise, index, chances[0])
    given = made.corrupt(latents, noise, index, step=0, chance=chances[1])
    for own, other in zip((given.start, given.noise, given.context), wanted, strict=True):
        assert own.dtype == dtype
        assert torch.equal(own, other)
    assert chances[0].getstate() == chances[1].getstate()


def test_blocks_without_an_error_are_zeros_and_none_at_all_is_nothing():
    one = Chosen(error=torch.full((CHANNELS, SIZE, 2, 1), 2.0, dtype=torch.bfloat16), scale=1.5)
    made = put_together([[None, one], [None, None]], torch.device("cpu"))
    assert made.shape == (2, CHANNELS, 2 * SIZE, 2, 1)
    assert made.dtype == torch.float32
    assert (made[0, :, SIZE:] == 3.0).all()
    assert made.sum() == made[0, :, SIZE:].sum()
    assert put_together([[None], [None]], torch.device("cpu")) is None


def test_what_was_put_together_is_a_copy():
    error = torch.ones(CHANNELS, SIZE, 2, 1)
    made = put_together([[Chosen(error=error, scale=1.0)]], torch.device("cpu"))
    error.fill_(9.0)
    assert (made == 1.0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory is a GPU's")
def test_a_gpu_has_the_bits_of_the_cpu():
    chance = random.Random(0)
    grid = [
        [
            Chosen(error=torch.randn(CHANNELS, SIZE, 9, 7).bfloat16(), scale=chance.uniform(0.7, 1))
            if chance.random() < 0.8
            else None
            for _ in range(5)
        ]
        for _ in range(4)
    ]
    on_cpu, on_gpu = (put_together(grid, torch.device(name)) for name in ("cpu", "cuda"))
    assert torch.equal(on_cpu, on_gpu.cpu())
