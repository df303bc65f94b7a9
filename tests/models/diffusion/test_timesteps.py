"""The training schedule: its table, weights, lookups and draws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.diffusion import FlowSchedule, loss_weights, sigma_grid

SHIFTS = st.floats(0.25, 12)


@given(st.integers(1, 200), SHIFTS)
def test_a_grid_falls_from_one_and_leaves_zero_out(steps, shift):
    grid = sigma_grid(steps, shift)
    assert len(grid) == steps
    assert grid[0] == pytest.approx(1)
    assert all(a > b > 0 for a, b in zip(grid, grid[1:], strict=False))


def test_a_grid_with_its_endpoint_reaches_it():
    assert sigma_grid(3, 1.0, first=0.8, last=0.2, endpoint=True) == pytest.approx((0.8, 0.5, 0.2))
    assert sigma_grid(1, 1.0, first=0.8, last=0.2, endpoint=True) == (0.8,)


def test_the_table_of_the_published_schedule():
    schedule = FlowSchedule(parity=True)
    assert len(schedule.sigmas) == 1000
    assert schedule.sigmas[-1].item() == pytest.approx(0.0049801, rel=1e-5)
    assert schedule.timesteps[375].item() == pytest.approx(892.857143)
    assert schedule.weights.double().mean().item() == pytest.approx(1, rel=1e-6)
    assert schedule.weights[0] == 0
    assert schedule.weights.max().item() == pytest.approx(2.076, abs=1e-3)
    assert schedule.weight(torch.tensor([4.98, 625.0])).tolist() == pytest.approx(
        [0.032, 1.914], abs=1e-3
    )


def test_timestep_zero_means_no_noise_unless_the_original_is_asked_for():
    zero = torch.zeros(2, 3)
    assert torch.equal(FlowSchedule().sigma(zero), zero)
    assert torch.equal(FlowSchedule().weight(zero), zero)
    assert FlowSchedule(parity=True).sigma(zero).unique().item() == pytest.approx(
        0.0049801, rel=1e-5
    )


@given(SHIFTS, st.booleans(), st.integers(2, 1000))
def test_every_level_is_found_again(shift, parity, levels):
    schedule = FlowSchedule(shift=shift, levels=levels, parity=parity)
    index = torch.arange(len(schedule.sigmas))
    assert torch.equal(schedule.index(schedule.timestep(index)), index)
    assert torch.equal(schedule.sigma(schedule.timesteps), schedule.sigmas)


@given(st.floats(0, 1000, width=32), st.booleans())
def test_a_lookup_finds_the_nearest_level(timestep, parity):
    schedule = FlowSchedule(parity=parity)
    found = schedule.timesteps[schedule.index(torch.tensor(timestep))].item()
    distances = (schedule.timesteps - timestep).abs()
    assert abs(found - timestep) == pytest.approx(distances.min().item())


def test_the_noisier_of_two_levels_as_near_is_taken():
    schedule = FlowSchedule(shift=1.0, levels=4)
    assert schedule.timesteps.tolist() == [1000, 750, 500, 250, 0]
    assert schedule.index(torch.tensor([875.0, 625.0, 125.0])).tolist() == [0, 1, 3]


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 20), st.integers(1, 8))
def test_a_draw_is_one_level_a_block_from_the_table(seed, batch, frames, frames_per_block):
    schedule = FlowSchedule()

    def draw():
        generator = torch.Generator().manual_seed(seed)
        return schedule.draw(
            generator, batch=batch, frames=frames, frames_per_block=frames_per_block
        )

    timesteps = draw()
    assert timesteps.dtype == torch.float32
    assert timesteps.shape == (batch, frames)
    assert torch.equal(timesteps, draw())
    assert torch.isin(timesteps, schedule.timesteps[:-1]).all()
    for block in timesteps.split(frames_per_block, dim=1):
        assert (block == block[:, :1]).all()


def test_draws_are_uniform_over_levels_samples_and_blocks():
    schedule = FlowSchedule(levels=4)
    drawn = schedule.draw(
        torch.Generator().manual_seed(0), batch=200, frames=80, frames_per_block=4
    )
    counts = torch.bincount(schedule.index(drawn[:, ::4]).flatten(), minlength=5)
    assert counts[4] == 0
    assert ((counts[:4] / 4000 - 0.25).abs() < 0.03).all()
    assert len(drawn[0].unique()) == len(drawn[:, 0].unique()) == 4


@pytest.mark.parametrize("parity", [False, True])
def test_uniform_weights_are_one_at_every_level_of_training(parity):
    schedule = FlowSchedule(levels=8, parity=parity, weighting="uniform")
    assert schedule.weights[:8].tolist() == [1.0] * 8
    assert schedule.weights[8:].tolist() == ([] if parity else [0.0])
    high = torch.tensor([950.0])
    assert schedule.weight(high) > 3 * FlowSchedule(parity=parity).weight(high)


def test_another_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting is one of bell, uniform, got 'flat'"):
        FlowSchedule(weighting="flat")


def test_tables_made_without_autograd_serve_training_afterwards():
    schedule = FlowSchedule()
    with torch.inference_mode():
        schedule.sigma(torch.zeros(1)), schedule.weight(torch.zeros(1))
    x = torch.ones(1, requires_grad=True)
    timesteps = torch.tensor([500.0])
    (x * schedule.sigma(timesteps) * schedule.weight(timesteps)).sum().backward()
    assert x.grad.item() > 0


def test_weights_follow_the_formula():
    timesteps = (1000.0, 700.0, 400.0, 100.0)
    heights = [math.exp(-2 * ((t - 500) / 1000) ** 2) for t in timesteps]
    raised = [height - min(heights) for height in heights]
    assert loss_weights(timesteps) == pytest.approx([4 * y / sum(raised) for y in raised])


def test_what_cannot_be_a_schedule_is_refused():
    with pytest.raises(ValueError, match="steps is at least 1, got 0.*Pass 1 or more"):
        sigma_grid(0, 5.0)
    with pytest.raises(ValueError, match="shift is above 0, got -1.0.*1.0 for no shift"):
        FlowSchedule(shift=-1.0)
    with pytest.raises(ValueError, match="two different heights.*Use more levels"):
        loss_weights([500.0])
