"""Group 11: losses of distillation, error recycling, and rollouts of a student.

Cases tell what they are by what they hold: a table of `runs` (the error buffer), of `steps` (error
recycling in training), `exit_flags` (a rollout), or lists of small cases of a loss.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule, velocity_from_x0
from longlive_models.first_frame import pin_first_frame
from longlive_models.objectives import (
    Guidance,
    ScoreTimesteps,
    block_causal_mask,
    critic_loss,
    dmd_gradient,
    dmd_loss,
    gradient_loss,
)
from tests.checks import error_recycling, rollouts
from tests.checks.framework import Case, Report, Verdict
from tests.checks.settings import Settings
from tests.checks.transformers import tolerance

CRITIC_RTOL, CRITIC_ATOL = 1e-4, 1e-6


def check(case: Case) -> Verdict:
    if "runs" in case.meta:
        return error_recycling.check_buffer(case)
    if "steps" in case.meta:
        return error_recycling.check_training(case)
    if "exit_flags" in case.meta:
        return rollouts.check(case)
    report = Report(case)
    for values in case.config["cases"]:
        config = Settings(values)
        one = _Loss(case, config)
        if "real_guidance_scale" in config:
            _check_dmd(one, report)
        else:
            assert not config["teacher_forcing"], "a critic that is shown a clean past"
            _check_critic(one, report)
        if unknown := config.unused():
            return Verdict("failed", f"unknown key cases.{', cases.'.join(unknown)}")
    return report.verdict(parity=True)  # timestep 0 is not clean in the original


class _Network:
    """Answers fixed estimates of x0, by the text; remembers what it was asked."""

    def __init__(self, answers: Mapping[float, Tensor], schedule: FlowSchedule) -> None:
        self.answers = answers
        self.schedule = schedule

    def __call__(self, latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        self.latents, self.timesteps = latents, timesteps
        return velocity_from_x0(
            latents, self.answers[float(text[0, 0, 0, 0])], self.schedule.sigma(timesteps)
        )


class _Loss:
    """One small case: its tensors, [batch, channels, frames, height, width], and its schedule."""

    def __init__(self, case: Case, config: Settings) -> None:
        self.case, self.config, self.name = case, config, config["case"]
        self.levels = case.config.get("num_train_timestep", 1000)
        shift, self.block = config["timestep_shift"], config["num_frame_per_block"]
        self.schedule = FlowSchedule(shift=shift, levels=self.levels, parity=True)
        bounds = case.config.get("min_step", 20), case.config.get("max_step", 980)
        self.looks = ScoreTimesteps(
            shift=shift,
            least=bounds[0] / self.levels,
            most=bounds[1] / self.levels,
            levels=self.levels,
        )
        raw = case.tensors[f"input.{self.name}.raw_timestep"]
        self.check_range(raw)
        self.timesteps = self.looks.timesteps(raw)
        self.image = self.input("initial_latent") if config["i2v"] else None
        first = 1 if config.get("independent_first_frame") else None
        frames = raw.shape[1]
        self.first = first
        self.mask = block_causal_mask(frames, 1, self.block, first_block_frames=first)
        counted = torch.ones(raw.shape, dtype=torch.bool)
        if self.image is not None:
            counted[:, 0] = False
        if (masked := case.tensors.get(f"input.{self.name}.gradient_mask")) is not None:
            counted &= masked[:, :, 0, 0, 0]
        self.counted = counted

    def check_range(self, raw: Tensor) -> None:
        """Levels are drawn from all, or from those that the rollout's exit step names."""
        low, high = 0, self.levels - 1
        given = [self.case.config.get(f"denoised_timestep_{end}") for end in ("to", "from")]
        if self.config.get("ts_schedule"):
            low, high = given
        assert low <= int(raw.min()) <= int(raw.max()) <= high, "a level that is not drawn"

    def input(self, name: str) -> Tensor:
        return self.case.tensors[f"input.{self.name}.{name}"].transpose(1, 2)

    def network(self, name: str) -> _Network:
        answers = {
            number: self.input(f"{name}_{branch}_pred_x0")
            for number, branch in ((1.0, "cond"), (0.0, "uncond"))
            if f"input.{self.name}.{name}_{branch}_pred_x0" in self.case.tensors
        }
        return _Network(answers, self.schedule)

    def text(self, number: float) -> Tensor:
        return torch.full((self.timesteps.shape[0], 1, 1, 1), number)

    def compare(self, report: Report, got: Mapping[str, Tensor], near: tuple[float, float]) -> None:
        for name, value in got.items():
            if (want := self.case.tensors.get(f"output.{self.name}.{name}")) is not None:
                value = value.transpose(1, 2) if value.ndim == 5 else value
                report.close(f"{self.name}.{name}", value, want, *near)


def _check_dmd(one: _Loss, report: Report) -> None:
    config = one.config
    image = one.input("image").requires_grad_(True)
    real, fake = one.network("real"), one.network("fake")
    scales = {
        who: Guidance(scale=config[f"{who}_guidance_scale"], convention="from_conditional")
        for who in ("real", "fake")
    }
    loss = dmd_loss(
        image,
        one.text(1.0),
        real=real,
        fake=fake,
        negative=one.text(0.0),
        guidance=scales["real"],
        fake_guidance=scales["fake"],
        noise=one.input("noise"),
        timesteps=one.timesteps,
        schedule=one.schedule,
        mask=one.mask,
        frames_per_block=one.block,
        first_block_frames=one.first,
        normalize=config["normalised"],
        image=one.image,
        loss_mask=one.counted,
    )
    estimates = {}
    for who, network in (("real", real), ("fake", fake)):
        weight = scales[who].weight
        cond, uncond = network.answers[1.0], network.answers.get(0.0)
        estimates[who] = cond if uncond is None else uncond + weight * (cond - uncond)
    pinned = image if one.image is None else pin_first_frame(image, image=one.image)
    gradient = _gradient(one, pinned, estimates)
    if one.first is not None:
        loss = gradient_loss(image, gradient, one.counted)
    loss.backward()
    assert image.grad is not None
    got = {
        "score_noisy_input": fake.latents,
        "score_timestep": fake.timesteps,
        "kl_grad": gradient,
        "grad_norm_log": gradient.abs().mean(),
        "loss": loss,
        "image_grad": image.grad,
    }
    report.equal(f"{one.name} scores", real.timesteps, fake.timesteps)
    one.compare(report, got, tolerance(one.case))


def _gradient(one: _Loss, image: Tensor, estimates: Mapping[str, Tensor]) -> Tensor:
    """The gradient; a first frame of its own is not normalized, as the original has it."""
    lead = one.first or 0
    parts = [
        dmd_gradient(
            image[:, :, frames],
            real=estimates["real"][:, :, frames],
            fake=estimates["fake"][:, :, frames],
            frames_per_block=one.block,
            normalize=normalize,
        )
        for frames, normalize in (
            (slice(lead), False),
            (slice(lead, None), one.config["normalised"]),
        )
    ]
    return torch.cat(parts, dim=2)


def _check_critic(one: _Loss, report: Report) -> None:
    critic = one.network("fake")
    loss = critic_loss(
        critic,
        one.input("generated"),
        one.text(1.0),
        noise=one.input("noise"),
        timesteps=one.timesteps,
        schedule=one.schedule,
        mask=one.mask,
        image=one.image,
        loss_mask=one.counted,
    )
    assert math.isfinite(loss)
    got = {
        "score_noisy_input": critic.latents,
        "score_timestep": critic.timesteps,
        "critic_timestep": critic.timesteps,
        "loss": loss,
    }
    one.compare(report, got, (CRITIC_RTOL, CRITIC_ATOL))
