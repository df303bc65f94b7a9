"""Training on one's own errors against its formula in float64, and what is added when."""

import random

import pytest
import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives import (
    ErrorBankConfig,
    ErrorRecycler,
    ErrorRecycling,
    frame_losses,
    recycled_losses,
    teacher_forcing_mask,
)
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

FRAMES, SIZE = 6, TINY.frames_per_block
SCHEDULE = FlowSchedule()
BANK = ErrorBankConfig(buckets=2, bucket_size=2, modulation=0.0)
ALWAYS = {"context": 1.0, "start": 1.0, "noise": 1.0, "clean": 0.0, "bank": BANK}


@pytest.fixture
def setting() -> dict:
    latents, _, text = (x.float() for x in inputs(frames=FRAMES))
    return {
        "latents": latents,
        "text": text,
        "noise": torch.randn_like(latents),
        "timesteps": SCHEDULE.draw(
            torch.Generator().manual_seed(0), batch=2, frames=FRAMES, frames_per_block=SIZE
        ),
        "mask": teacher_forcing_mask(FRAMES, TOKENS, SIZE),
        "schedule": SCHEDULE,
    }


def recycler(**settings: object) -> ErrorRecycler:
    return ErrorRecycler(
        ErrorRecycling(**{**ALWAYS, **settings}), frames_per_block=SIZE, dtype=torch.float32
    )


def taught(made: ErrorRecycler, latent: float, noise: float) -> ErrorRecycler:
    """With one error in every bucket, the same number everywhere in each bank."""
    shape = (TINY.in_channels, SIZE, 4, 2)
    for index in (0, 999):
        made.latent_errors.add(torch.full(shape, latent), index, random.Random(0))
        made.noise_errors.add(torch.full(shape, noise), index, random.Random(0))
    return made


def test_loss_and_gradients_are_those_of_the_formula(setting):
    f, h, model = 0.3, -0.2, tiny_model()
    x0, noise, t = (setting[name].double() for name in ("latents", "noise", "timesteps"))
    sigma = SCHEDULE.sigma(setting["timesteps"]).double()[:, None, :, None, None]
    noisy = (1 - sigma) * (x0 + f) + sigma * (noise + h)
    predicted = model(noisy, t, setting["text"].double(), mask=setting["mask"], clean=x0 + f)
    error = (predicted - (noise + h - x0)).square().mean((1, 3, 4))
    wanted = SCHEDULE.weight(setting["timesteps"]).double() * error
    wanted.mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.float().zero_grad()
    made = taught(recycler(), f, h)
    losses = recycled_losses(model, **setting, recycler=made, step=0, chance=random.Random(0))
    losses.mean().backward()
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-4, atol=1e-6)
    for name, own in model.named_parameters():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(
            own.grad.double(), expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-7
        )


def test_what_a_model_got_wrong_is_kept_by_level(setting):
    made = recycler(bank=ErrorBankConfig(buckets=1000, bucket_size=9, modulation=0.0))
    answer = torch.randn_like(setting["latents"])
    recycled_losses(
        lambda *_, **__: answer, **setting, recycler=made, step=0, chance=random.Random(0)
    )
    x0, noise = setting["latents"], setting["noise"]
    for clip in range(2):
        for start in range(0, FRAMES, SIZE):
            at = (clip, slice(None), slice(start, start + SIZE))
            t = setting["timesteps"][clip, start]
            sigma, bucket = SCHEDULE.sigma(t), min(int(SCHEDULE.index(t)), 999)
            missed = answer[at] - (noise[at] - x0[at])
            wanted = -sigma * missed, (1 - sigma) * missed
            banks = made.latent_errors, made.noise_errors
            for bank, error in zip(banks, wanted, strict=True):
                distances = [(error - e).abs().max() for e in bank.entries[0, bucket]]
                assert min(distances) < 1e-5
    assert made.latent_errors.added == made.noise_errors.added == 2 * FRAMES // SIZE


def test_with_nothing_to_add_it_is_teacher_forcing(setting):
    model = tiny_model().float()
    made = taught(recycler(first_step=5), 1.0, 1.0)
    losses = recycled_losses(model, **setting, recycler=made, step=4, chance=random.Random(0))
    assert torch.equal(losses, frame_losses(model, **setting))


def corrupted(made: ErrorRecycler, setting: dict, step: int = 0):
    index = SCHEDULE.index(setting["timesteps"])
    chance = random.Random(0)
    return made.corrupt(setting["latents"], setting["noise"], index, step=step, chance=chance)


@pytest.mark.parametrize("kind", ["context", "start", "noise"])
def test_each_probability_is_of_its_own_part(setting, kind):
    settings = {**dict.fromkeys(("context", "start", "noise"), 0.0), kind: 1.0}
    given = corrupted(taught(recycler(**settings), 0.5, 0.5), setting)
    parts = {"context": given.context, "start": given.start, "noise": given.noise}
    for name, part in parts.items():
        original = setting["noise" if name == "noise" else "latents"]
        wanted = original + 0.5 if name == kind else original
        torch.testing.assert_close(part, wanted)
    assert not given.clean


def test_a_clean_step_adds_nothing_and_teaches_only_now_and_then(setting):
    made = taught(recycler(clean=1.0, clean_learns=0.0), 1.0, 1.0)
    given = corrupted(made, setting)
    assert given.clean
    assert torch.equal(given.start, setting["latents"])
    index, added = SCHEDULE.index(setting["timesteps"]), made.latent_errors.added
    errors = torch.ones_like(setting["latents"])
    made.learn(errors, errors, index, clean=True, chance=random.Random(0))
    assert made.latent_errors.added == added
    made.learn(errors, errors, index, clean=False, chance=random.Random(0))
    assert made.latent_errors.added == added + 2 * FRAMES // SIZE


def test_the_first_block_of_the_context_may_be_spared(setting):
    given = corrupted(taught(recycler(spare_first_block=True), 1.0, 0.0), setting)
    assert torch.equal(given.context[:, :, :SIZE], setting["latents"][:, :, :SIZE])
    torch.testing.assert_close(given.context[:, :, SIZE:], setting["latents"][:, :, SIZE:] + 1)


def test_the_batch_itself_stays_as_it_is(setting):
    before: list[Tensor] = [setting["latents"].clone(), setting["noise"].clone()]
    corrupted(taught(recycler(), 1.0, 1.0), setting)
    assert torch.equal(before[0], setting["latents"])
    assert torch.equal(before[1], setting["noise"])


def test_a_run_goes_on_from_a_checkpoint_number_for_number(setting):
    model, made = tiny_model().float(), recycler(clean=0.5)

    def run(one: ErrorRecycler, steps: range) -> list[Tensor]:
        return [
            recycled_losses(
                model, **setting, recycler=one, step=step, chance=random.Random(step)
            ).detach()
            for step in steps
        ]

    run(made, range(4))
    resumed = recycler(clean=0.5)
    resumed.load_state_dict(made.state_dict())
    for got, wanted in zip(run(resumed, range(4, 9)), run(made, range(4, 9)), strict=True):
        assert torch.equal(got, wanted)


def test_what_is_drawn_does_not_depend_on_whether_errors_of_noise_are_kept(setting):
    """Beside a probability that is so small that they are kept, and never added."""
    index = SCHEDULE.index(setting["timesteps"])
    often = {"context": 0.5, "start": 0.5, "clean": 0.3}
    one, both = recycler(**often, noise=0.0), recycler(**often, noise=1e-300)
    for step in range(12):
        errors = torch.randn_like(setting["latents"])
        given = [
            made.corrupt(setting["latents"], errors, index, step=step, chance=random.Random(step))
            for made in (one, both)
        ]
        for part in ("start", "noise", "context"):
            assert torch.equal(getattr(given[0], part), getattr(given[1], part))
        for made in (one, both):
            made.learn(errors, errors, index, clean=False, chance=random.Random(-step))
    assert len(one.noise_errors) == 0 < len(both.noise_errors)


@pytest.mark.parametrize(("name", "value"), [("context", 1.5), ("clean", -0.1)])
def test_probabilities_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"ErrorRecycling.{name} .*probability"):
        ErrorRecycling(**{name: value})
