"""The critic's loss against its formula in float64, gradients included."""

import pytest
import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives import ScoreTimesteps, block_causal_mask, critic_loss
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

FRAMES = 6
SCHEDULE = FlowSchedule()


@pytest.fixture
def setting() -> dict:
    generated, _, text = (x.float() for x in inputs(frames=FRAMES))
    return {
        "generated": generated,
        "text": text,
        "noise": torch.randn_like(generated),
        "timesteps": ScoreTimesteps().draw(
            torch.Generator().manual_seed(0), batch=2, frames=FRAMES, frames_per_block=FRAMES
        ),
        "schedule": SCHEDULE,
        "mask": block_causal_mask(FRAMES, TOKENS, TINY.frames_per_block),
    }


def test_loss_and_gradients_are_those_of_the_formula(setting):
    model = tiny_model()
    x, noise = setting["generated"].double(), setting["noise"].double()
    sigma = SCHEDULE.sigma(setting["timesteps"]).double()[:, None, :, None, None]
    predicted = model(
        (1 - sigma) * x + sigma * noise,
        setting["timesteps"].double(),
        setting["text"].double(),
        mask=setting["mask"],
    )
    wanted = (predicted - (noise - x)).square().mean()
    wanted.backward()
    critic = tiny_model().float()
    setting["generated"].requires_grad_(True)
    loss = critic_loss(critic, **setting)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert setting["generated"].grad is None
    for (name, own), other in zip(critic.named_parameters(), model.parameters(), strict=True):
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(
            own.grad.double(), other.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name
        )


def test_the_perfect_critic_costs_nothing(setting):
    perfect = setting["noise"] - setting["generated"]
    assert critic_loss(lambda *_, **__: perfect, **setting) == 0


def test_frames_that_do_not_count_cost_nothing(setting):
    counted = torch.ones(2, FRAMES, dtype=torch.bool)
    counted[:, 0] = counted[1, 3:] = False
    wrong = setting["noise"] - setting["generated"]
    wrong[:, :, 1] += 2
    wrong[0, :, 0] = wrong[1, :, 3:] = 100

    def critic(latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        return wrong

    loss = critic_loss(critic, **setting, loss_mask=counted)
    assert loss.item() == pytest.approx(4 * 2 / counted.sum().item(), rel=1e-5)
    assert critic_loss(critic, **setting, loss_mask=torch.zeros_like(counted)) == 0


def test_a_given_first_frame_is_shown_clean(setting):
    seen = []

    def critic(latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        seen.append((latents, timesteps))
        return latents

    image = torch.randn(2, TINY.in_channels, 1, 4, 2)
    critic_loss(critic, **setting, image=image)
    [(latents, timesteps)] = seen
    assert torch.equal(latents[:, :, :1], image)
    assert not timesteps[:, 0].any()
    assert (timesteps[:, 1:] > 0).all()
