"""Flow-matching conversions: inverses, levels per frame, guidance, messages."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.diffusion import (
    add_noise,
    guide,
    shift_sigma,
    velocity,
    velocity_from_x0,
    x0_from_velocity,
)


@st.composite
def paths(draw):
    """Data, noise and a level of every allowed shape."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, frames = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    shape = (batch, 2, frames, 2, 3)
    x0, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    level_shape = draw(st.sampled_from([(), (batch,), (batch, frames)]))
    sigma = 0.05 + 0.95 * torch.rand(level_shape, generator=generator)
    return x0, noise, sigma


@given(paths())
def test_the_velocity_of_a_path_leads_back_to_its_data(path):
    x0, noise, sigma = path
    x = add_noise(x0, noise, sigma)
    torch.testing.assert_close(x0_from_velocity(x, velocity(x0, noise), sigma), x0)


@given(paths())
def test_x0_and_velocity_are_inverses(path):
    x, v, sigma = path
    x0 = x0_from_velocity(x, v, sigma)
    torch.testing.assert_close(velocity_from_x0(x, x0, sigma), v, rtol=1e-4, atol=1e-4)


@given(paths())
def test_the_ends_of_the_path_are_data_and_noise(path):
    x0, noise, _ = path
    assert torch.equal(add_noise(x0, noise, 0.0), x0)
    assert torch.equal(add_noise(x0, noise, 1.0), noise)


def test_a_level_per_frame_belongs_to_its_frame():
    x0, noise = torch.zeros(2, 1, 3, 1, 1), torch.ones(2, 1, 3, 1, 1)
    sigma = torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.75, 0.1]])
    assert torch.equal(add_noise(x0, noise, sigma)[:, 0, :, 0, 0], sigma)


def test_results_are_float32_whatever_comes_in():
    x = torch.ones(1, 2, 3, 4, 4, dtype=torch.bfloat16)
    sigma = torch.full((1, 3), 0.3, dtype=torch.bfloat16)
    for result in (add_noise(x, x, sigma), velocity(x, x), x0_from_velocity(x, x, 0.3)):
        assert result.dtype == torch.float32


def test_gradients_reach_the_velocity():
    v = torch.randn(1, 2, 3, 2, 2, requires_grad=True)
    x0_from_velocity(torch.zeros_like(v), v, torch.full((1, 3), 0.25)).sum().backward()
    assert torch.equal(v.grad, torch.full_like(v, -0.25))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 20))
def test_the_shift_keeps_order_and_ends(a, b, shift):
    low, high = sorted((shift_sigma(a, shift), shift_sigma(b, shift)))
    assert (low, high) == (shift_sigma(min(a, b), shift), shift_sigma(max(a, b), shift))
    assert shift_sigma(0.0, shift) == 0
    assert shift_sigma(1.0, shift) == pytest.approx(1)


@given(st.floats(0.01, 0.99), st.floats(1, 20))
def test_the_inverse_shift_undoes_the_shift(sigma, shift):
    assert shift_sigma(shift_sigma(sigma, shift), 1 / shift) == pytest.approx(sigma)


def test_guidance_starts_from_the_unconditional_velocity():
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert guide(conditional, unconditional, 1.0).item() == 3
    assert guide(conditional, unconditional, 0.0).item() == 1
    assert guide(conditional, unconditional, 3.0).item() == 7


def test_a_level_of_another_shape_is_refused():
    x = torch.zeros(2, 1, 3, 1, 1)
    with pytest.raises(ValueError, match=r"\[batch, frames\], got \[3, 2\].*Repeat the level"):
        add_noise(x, x, torch.zeros(3, 2))
