"""The loss of autoregressive training against its formula."""

import pytest
import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives import frame_losses, teacher_forcing_loss, teacher_forcing_mask
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

FRAMES = 6
SCHEDULE = FlowSchedule()


class Recorder:
    """A model that answers a fixed velocity and remembers what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def __call__(self, latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        self.latents, self.timesteps, self.how = latents, timesteps, how
        return self.answer


@pytest.fixture
def setting() -> dict:
    latents, _, text = (x.float() for x in inputs(frames=FRAMES))
    return {
        "latents": latents,
        "text": text,
        "noise": torch.randn_like(latents),
        "timesteps": SCHEDULE.draw(
            torch.Generator().manual_seed(0), batch=2, frames=FRAMES, frames_per_block=2
        ),
        "mask": teacher_forcing_mask(FRAMES, TOKENS, TINY.frames_per_block),
        "schedule": SCHEDULE,
    }


def test_the_loss_is_the_weighted_error_of_the_velocity(setting):
    answer = torch.randn_like(setting["latents"])
    model = Recorder(answer)
    losses = frame_losses(model, **setting)
    x0, noise = setting["latents"], setting["noise"]
    for sample in range(2):
        for frame in range(FRAMES):
            t = setting["timesteps"][sample, frame]
            at = (sample, slice(None), frame)
            torch.testing.assert_close(
                model.latents[at], (1 - t / 1000) * x0[at] + t / 1000 * noise[at]
            )
            error = (answer[at] - (noise[at] - x0[at])).square().mean()
            torch.testing.assert_close(losses[sample, frame], SCHEDULE.weight(t) * error)
    assert torch.equal(model.how["clean"], x0)
    assert not model.how["clean_timesteps"].any()
    assert torch.equal(teacher_forcing_loss(model, **setting), losses.mean())


def test_timesteps_reach_the_model_unrounded(setting):
    model = Recorder(setting["latents"])
    with torch.autocast("cpu", torch.bfloat16):
        losses = frame_losses(model, **setting)
    assert model.timesteps.dtype == losses.dtype == torch.float32
    assert torch.equal(model.timesteps, setting["timesteps"])


def test_the_perfect_velocity_costs_nothing(setting):
    model = Recorder(setting["noise"] - setting["latents"])
    assert teacher_forcing_loss(model, **setting) == 0


def test_masked_frames_do_not_count(setting):
    model = Recorder(torch.randn_like(setting["latents"]))
    losses = frame_losses(model, **setting)
    counted = torch.ones(2, FRAMES, dtype=torch.bool)
    counted[:, 0] = False
    counted[1, 4:] = False
    got = teacher_forcing_loss(model, **setting, loss_mask=counted)
    torch.testing.assert_close(got, losses[counted].mean())
    assert teacher_forcing_loss(model, **setting, loss_mask=torch.zeros(2, FRAMES)) == 0


@pytest.mark.parametrize("level", [250.0, torch.full((2, FRAMES), 250.0)], ids=["number", "tensor"])
def test_a_noisy_context_is_mixed_with_the_same_noise_and_announced(setting, level):
    model = Recorder(setting["latents"])
    frame_losses(model, **setting, context_noise=level)
    sigma = float(SCHEDULE.sigma(torch.tensor(250.0)))
    mixed = (1 - sigma) * setting["latents"] + sigma * setting["noise"]
    torch.testing.assert_close(model.how["clean"], mixed)
    assert torch.equal(model.how["clean_timesteps"], torch.full((2, FRAMES), 250.0))


def test_training_reaches_every_parameter_and_lowers_the_loss(setting):
    model = tiny_model().float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        loss = teacher_forcing_loss(model, **setting)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_least_noise_of_a_context_counts(setting):
    model = Recorder(setting["latents"])
    frame_losses(model, **setting, context_noise=1.0)
    assert torch.equal(model.how["clean_timesteps"], torch.ones(2, FRAMES))
