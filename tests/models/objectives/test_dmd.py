"""Distribution matching against its formula in float64, written out, gradients included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives import (
    Guidance,
    ScoreTimesteps,
    block_causal_mask,
    dmd_gradient,
    dmd_loss,
    gradient_loss,
)
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

FRAMES = 6
SCHEDULE = FlowSchedule()


@pytest.fixture
def setting() -> dict:
    generated, _, text = (x.float() for x in inputs(frames=FRAMES))
    return {
        "generated": generated,
        "text": text,
        "negative": torch.zeros_like(text),
        "guidance": Guidance(scale=3.0, convention="from_conditional"),
        "noise": torch.randn_like(generated),
        "timesteps": ScoreTimesteps().draw(
            torch.Generator().manual_seed(0), batch=2, frames=FRAMES, frames_per_block=FRAMES
        ),
        "schedule": SCHEDULE,
        "mask": block_causal_mask(FRAMES, TOKENS, TINY.frames_per_block),
        "frames_per_block": TINY.frames_per_block,
    }


def by_hand(setting: dict, real, fake, counted: Tensor) -> tuple[float, Tensor]:
    """The loss and its gradient by the video: float64, frame by frame and block by block."""
    x, noise = setting["generated"].double(), setting["noise"].double()
    t = setting["timesteps"]
    sigma = SCHEDULE.sigma(t).double()[:, None, :, None, None]
    noisy = (1 - sigma) * x + sigma * noise

    def estimate(model, text: Tensor) -> Tensor:
        with torch.no_grad():
            return noisy - sigma * model(noisy, t.double(), text.double(), mask=setting["mask"])

    cond, uncond = estimate(real, setting["text"]), estimate(real, setting["negative"])
    teacher = cond + 3.0 * (cond - uncond)
    direction = estimate(fake, setting["text"]) - teacher
    loss, gradient, numbers = 0.0, torch.zeros_like(x), 0
    for sample in range(2):
        for start in range(0, FRAMES, TINY.frames_per_block):
            block = (sample, slice(None), slice(start, start + TINY.frames_per_block))
            direction[block] /= (x[block] - teacher[block]).abs().mean()
        for frame in range(FRAMES):
            if counted[sample, frame]:
                at = (sample, slice(None), frame)
                loss += 0.5 * direction[at].square().sum().item()
                gradient[at] = direction[at]
                numbers += direction[at].numel()
    return loss / numbers, gradient / numbers


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradient_are_those_of_the_formula(setting, masked):
    counted = torch.ones(2, FRAMES, dtype=torch.bool)
    if masked:
        counted[0, :2] = counted[1, 5] = False
    real, fake = tiny_model(seed=1), tiny_model(seed=2)
    wanted, gradient = by_hand(setting, real, fake, counted)
    setting["generated"].requires_grad_(True)
    loss = dmd_loss(
        **setting, real=real.float(), fake=fake.float(), loss_mask=counted if masked else None
    )
    loss.backward()
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    got = setting["generated"].grad.double()
    torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())
    assert all(p.grad is None for p in (*real.parameters(), *fake.parameters()))


def test_where_both_scores_agree_there_is_nothing_to_learn(setting):
    model = tiny_model().float()
    setting["guidance"] = Guidance(scale=1.0)
    setting["generated"].requires_grad_(True)
    loss = dmd_loss(**setting, real=model, fake=model)
    loss.backward()
    assert loss.item() == 0
    assert not setting["generated"].grad.any()


def test_a_step_against_the_gradient_comes_closer_to_the_teacher():
    x, real = torch.randn(1, 3, 4, 2, 2), torch.randn(1, 3, 4, 2, 2)
    gradient = dmd_gradient(x, real=real, fake=x, frames_per_block=2)
    assert (x - 0.1 * gradient - real).norm() < (x - real).norm()


@given(st.floats(0.01, 100.0))
def test_the_gradient_of_a_block_does_not_depend_on_its_scale_nor_on_other_blocks(scale):
    x, real, fake = (torch.randn(2, 3, 6, 2, 2) for _ in range(3))
    plain = dmd_gradient(x, real=real, fake=fake, frames_per_block=2)
    factor = torch.tensor([1.0, 1.0, scale, scale, 1.0, 1.0])[:, None, None]
    scaled = dmd_gradient(factor * x, real=factor * real, fake=factor * fake, frames_per_block=2)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-5)


def test_a_short_first_block_is_a_block():
    x, real, fake = (torch.randn(2, 3, 5, 2, 2) for _ in range(3))
    got = dmd_gradient(x, real=real, fake=fake, frames_per_block=2, first_block_frames=1)
    parts = [
        dmd_gradient(x[:, :, at], real=real[:, :, at], fake=fake[:, :, at], frames_per_block=2)
        for at in (slice(1), slice(1, 5))
    ]
    torch.testing.assert_close(got, torch.cat(parts, dim=2))


def test_a_block_that_is_what_the_teacher_sees_gets_no_gradient():
    """Its distance is 0: the original divides by it."""
    x, fake = torch.randn(1, 3, 4, 2, 2), torch.randn(1, 3, 4, 2, 2)
    real = x.clone()
    real[:, :, 2:] += 1
    gradient = dmd_gradient(x, real=real, fake=fake, frames_per_block=2)
    assert not gradient[:, :, :2].any()
    assert gradient[:, :, 2:].abs().min() > 0
    assert gradient.isfinite().all()


def test_without_normalizing_the_gradient_is_the_difference():
    x, real, fake = (torch.randn(1, 3, 4, 2, 2) for _ in range(3))
    got = dmd_gradient(x, real=real, fake=fake, frames_per_block=2, normalize=False)
    assert torch.equal(got, fake - real)


def test_a_loss_over_no_frame_is_zero():
    x = torch.randn(1, 3, 4, 2, 2, requires_grad=True)
    loss = gradient_loss(x, torch.ones_like(x), torch.zeros(1, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


@given(st.floats(1e-6, 1e3))
def test_how_much_all_frames_count_changes_no_mean(weight):
    x, gradient = torch.randn(2, 1, 3, 4, 2, 2)
    counted = torch.tensor([[1.0, 0.0, 0.5, 2.0]])
    want = gradient_loss(x, gradient, counted)
    torch.testing.assert_close(gradient_loss(x, gradient, weight * counted), want)
    squares = 0.5 * gradient.square().double().mean((0, 1, 3, 4))
    torch.testing.assert_close(want, (squares * counted[0]).sum() / counted.sum().double())


class Recorder:
    def __call__(self, latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        self.latents, self.timesteps = latents, timesteps
        return torch.zeros_like(latents)


def test_a_given_first_frame_is_shown_clean(setting):
    real, fake, image = Recorder(), Recorder(), torch.randn(2, TINY.in_channels, 1, 4, 2)
    dmd_loss(**setting, real=real, fake=fake, image=image)
    for network in (real, fake):
        assert torch.equal(network.latents[:, :, :1], image)
        assert not network.timesteps[:, 0].any()
        assert torch.equal(network.timesteps[:, 1:], setting["timesteps"][:, 1:])


@given(st.floats(0.5, 12.0), st.integers(1, 4), st.integers(1, 9))
def test_score_timesteps_lie_in_their_bounds_and_are_equal_within_a_block(shift, size, frames):
    looks = ScoreTimesteps(shift=shift)
    generator = torch.Generator().manual_seed(0)
    drawn = looks.draw(generator, batch=3, frames=frames, frames_per_block=size)
    assert drawn.dtype == torch.float32
    assert drawn.shape == (3, frames)
    assert 20 <= drawn.min() <= drawn.max() <= 980
    assert all((drawn[:, f] == drawn[:, f - f % size]).all() for f in range(frames))
    level = 0.5
    expected = 1000 * min(max(shift * level / (1 + (shift - 1) * level), 0.02), 0.98)
    assert looks.timesteps(torch.tensor([500])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"least": 0}, "least is above 0"), ({"most": 0.01}, "most .*not below least")],
)
def test_bounds_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        ScoreTimesteps(**wrong)
