"""Consistency distillation against its formula in float64, and what holds for consistent models."""

import pytest
import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule, step_schedule
from longlive_models.objectives import (
    Guidance,
    consistency_loss,
    consistency_targets,
    draw_steps,
    teacher_forcing_mask,
)
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

FRAMES = 6
LEVELS = step_schedule(8)
GUIDANCE = Guidance(scale=3.0)


@pytest.fixture
def setting() -> dict:
    latents, _, text = (x.float() for x in inputs(frames=FRAMES))
    return {
        "latents": latents,
        "text": text,
        "mask": teacher_forcing_mask(FRAMES, TOKENS, TINY.frames_per_block),
    }


@pytest.fixture
def drawn(setting) -> dict:
    generator = torch.Generator().manual_seed(3)
    size = TINY.frames_per_block
    steps = draw_steps(LEVELS, generator, batch=2, frames=FRAMES, frames_per_block=size)
    steps[0, :size] = LEVELS.steps - 1  # the step that ends at level 0
    return {
        "negative": torch.zeros_like(setting["text"]),
        "noise": torch.randn_like(setting["latents"]),
        "steps": steps,
        "levels": LEVELS,
    }


def asked(setting: dict) -> dict:
    """What the student is asked with, the latents being among the targets."""
    return {name: value for name, value in setting.items() if name != "latents"}


def by_hand(setting: dict, drawn: dict, teacher, target, student) -> Tensor:
    """The loss in float64, with the student's graph."""
    x0, noise, steps = (v.double() for v in (setting["latents"], drawn["noise"], drawn["steps"]))
    text, negative = setting["text"].double(), drawn["negative"].double()
    sigma, after = (
        torch.tensor([[LEVELS.sigmas[int(n) + k] for n in row] for row in steps]).double()
        for k in (0, 1)
    )
    t, told = (
        torch.tensor([[(*LEVELS.timesteps, 0.0)[int(n) + k] for n in row] for row in steps])
        for k in (0, 1)
    )
    sigma, after = (s[:, None, :, None, None] for s in (sigma, after))

    def velocity(model, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        return model(x, t.double(), prompt, mask=setting["mask"], clean=x0)

    x = (1 - sigma) * x0 + sigma * noise
    with torch.no_grad():
        cond, uncond = velocity(teacher, x, t, text), velocity(teacher, x, t, negative)
        moved = x + (after - sigma) * (uncond + 3.0 * (cond - uncond))
        wanted = moved - after * velocity(target, moved, told, text)
    return (x - sigma * velocity(student, x, t, text) - wanted).square().mean()


def test_loss_and_gradients_are_those_of_the_formula(setting, drawn):
    models = [tiny_model(seed=seed) for seed in (1, 2, 3)]
    wanted = by_hand(setting, drawn, *models)
    wanted.backward()
    expected = {name: p.grad.clone() for name, p in models[2].named_parameters()}
    teacher, target, student = (model.float() for model in models)
    student.zero_grad()
    targets = consistency_targets(
        **setting, **drawn, teacher=teacher, target=target, guidance=GUIDANCE
    )
    loss = consistency_loss(student, targets, **asked(setting))
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    for name, gradient in expected.items():
        got = dict(student.named_parameters())[name].grad.double()
        scale = gradient.abs().max().item()
        torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4 * scale + 1e-7)
    assert all(p.grad is None for p in (*teacher.parameters(), *target.parameters()))
    assert not targets.estimate.requires_grad


def pointing_at(goal: Tensor, schedule: FlowSchedule):
    """The flow whose every path ends at ``goal``: consistent, whatever the levels."""

    def model(latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        sigma = schedule.sigma(timesteps)[:, None, :, None, None]
        return (latents - goal) / sigma.clamp_min(1e-3)

    return model


def test_a_consistent_model_costs_nothing(setting, drawn):
    levels = step_schedule(4, shift=1.0)  # timesteps that are 1000 times their levels
    drawn |= {"levels": levels, "steps": drawn["steps"] % 4}
    goal = torch.randn_like(setting["latents"])
    model = pointing_at(goal, FlowSchedule(shift=1.0))
    targets = consistency_targets(
        **setting, **drawn, teacher=model, target=model, guidance=GUIDANCE
    )
    assert consistency_loss(model, targets, **asked(setting)).item() == pytest.approx(0, abs=1e-10)
    other = pointing_at(goal + 1, FlowSchedule(shift=1.0))
    assert consistency_loss(other, targets, **asked(setting)).item() == pytest.approx(1, rel=1e-4)


def test_the_last_step_is_learnt_from_the_teacher_alone(setting, drawn):
    """At level 0 every model points to where it is."""
    drawn["steps"] = torch.full_like(drawn["steps"], LEVELS.steps - 1)
    teacher = tiny_model(seed=1).float()
    one, other = (
        consistency_targets(
            **setting, **drawn, teacher=teacher, target=target, guidance=GUIDANCE
        ).estimate
        for target in (tiny_model(seed=2).float(), tiny_model(seed=3).float())
    )
    assert torch.equal(one, other)


def test_a_block_is_learnt_given_the_clean_blocks_before_it_alone(setting, drawn):
    teacher, target, student = (tiny_model(seed=seed).float() for seed in (1, 2, 3))
    last = torch.zeros(2, FRAMES, dtype=torch.bool)
    last[:, -2:] = True

    def last_block_s_loss() -> float:
        targets = consistency_targets(
            **setting, **drawn, teacher=teacher, target=target, guidance=GUIDANCE
        )
        return consistency_loss(student, targets, **asked(setting), loss_mask=last).item()

    before = last_block_s_loss()
    drawn["noise"] = drawn["noise"].clone()
    drawn["noise"][:, :, :-2] += 1  # the others' noisy copies
    assert last_block_s_loss() == pytest.approx(before, rel=1e-5)
    setting["latents"][:, :, 0] += 1
    assert last_block_s_loss() != pytest.approx(before, rel=1e-3)


def test_steps_are_equal_within_a_block_and_all_are_drawn():
    generator = torch.Generator().manual_seed(0)
    steps = draw_steps(LEVELS, generator, batch=100, frames=5, frames_per_block=2)
    assert torch.equal(steps[:, 0], steps[:, 1])
    assert torch.equal(steps[:, 2], steps[:, 3])
    assert sorted(set(steps.flatten().tolist())) == list(range(LEVELS.steps))


def test_a_step_that_leads_nowhere_is_refused(setting, drawn):
    drawn["steps"] = drawn["steps"] + 1
    with pytest.raises(ValueError, match="0 to 7, got .* to 8: each leads from a level"):
        consistency_targets(**setting, **drawn, teacher=print, target=print, guidance=GUIDANCE)


def test_a_past_of_its_own_is_what_blocks_see(setting, drawn):
    seen = []

    def model(latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        seen.append(how["clean"])
        return latents

    context = setting["latents"] + 1
    targets = consistency_targets(
        **setting, **drawn, teacher=model, target=model, guidance=GUIDANCE, context=context
    )
    consistency_loss(model, targets, **asked(setting))
    assert len(seen) == 4
    assert all(torch.equal(one, context) for one in seen)
