"""Group 5: the flow-matching schedule, its conversions, and UniPC trajectories."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from longlive_models.diffusion import (
    FlowSchedule,
    StepSchedule,
    add_noise,
    euler,
    loss_weights,
    sigma_grid,
    step_schedule,
    unipc_schedule,
    unipc_step,
    velocity,
    velocity_from_x0,
    x0_from_velocity,
)
from tests.checks.framework import Case, Report, Verdict

_NAME = re.compile(r"output\.(\w+)\.shift([\d.]+)\.steps(\d+)(?:\.(\w+))?")
_DEFAULT_FIRST, _DEFAULT_LAST = 1.0, 0.003 / 1.002


def check(case: Case) -> Verdict:
    report = Report(case)
    case.config.use("shifts", "num_train_timesteps", "sigma_min", "extra_one_step")  # of tables
    parity = False
    for name, want in case.tensors.items():
        if match := _NAME.fullmatch(name):
            kind, shift, steps, part = match[1], float(match[2]), int(match[3]), match[4]
            if kind == "unipc":
                _check_unipc(report, case, name, shift, steps, part)
            else:
                _check_table(report, case, name, want, (kind, shift, steps, part))
    if "input.x0" in case.tensors:
        parity = True  # the original's table, whose last level is not 0
        _check_conversions(report, case.tensors, _looked_up_schedule(case))
    return report.verdict(parity=parity)


def _check_table(
    report: Report, case: Case, name: str, want: Tensor, key: tuple[str, float, int, str | None]
) -> None:
    kind, shift, steps, part = key
    scale = case.config.get("num_train_timesteps", 1000)
    if kind == "default_denoising_step_list":
        got = torch.tensor([*step_schedule(steps, shift).timesteps, 0.0])
        assert scale == 1000, "the library's timesteps are thousandths"
        report.equal(name, got.to(want.dtype), want)
        return
    if kind == "flowmatch_default_ctor":
        grid = sigma_grid(steps, shift, first=_DEFAULT_FIRST, last=_DEFAULT_LAST, endpoint=True)
    else:
        last, open_end = case.config.get("sigma_min", 0.0), case.config.get("extra_one_step", True)
        grid = sigma_grid(steps, shift, last=last, endpoint=not open_end)
    timesteps = [scale * sigma for sigma in grid]
    match part:
        case "sigmas":
            _close_schedule(report, name, grid, want)
        case "timesteps":
            _close_schedule(report, name, timesteps, want)
        case "linear_timesteps_weights":  # float32 differences of nearly equal numbers
            weights = torch.tensor(loss_weights(timesteps, span=float(steps)))
            report.close(name, weights, want, rtol=1e-5, atol=2e-6)


def _close_schedule(report: Report, name: str, got: Sequence[float], want: Tensor) -> None:
    report.close(name, torch.tensor(got, dtype=torch.float64), want, rtol=1e-6, atol=1e-12)


def _check_unipc(
    report: Report, case: Case, name: str, shift: float, steps: int, part: str | None
) -> None:
    schedule, want = unipc_schedule(steps, shift), case.tensors[name]
    match part:
        case "timesteps":
            report.equal(name, torch.tensor(schedule.timesteps).to(want.dtype), want)
        case "sigmas":
            _close_schedule(report, name, schedule.sigmas, want)
        case "trajectory":
            stem = name.removeprefix("output.").removesuffix(".trajectory")
            x, history = case.tensors[f"input.{stem}.x_T"], None
            trajectory = [x]
            for step, output in enumerate(case.tensors[f"input.{stem}.model_outputs"]):
                x, history = unipc_step(schedule, step, x, output, history)
                trajectory.append(x)
            report.close(name, torch.stack(trajectory), want, rtol=1e-4, atol=1e-5)


def _looked_up_schedule(case: Case) -> FlowSchedule:
    """The schedule that the case looks timesteps up in: of shift 5, unless it shows another."""
    index, want = (
        case.tensors.get(k) for k in ("input.timestep_index", "output.timestep_from_index")
    )
    levels = case.config.get("num_train_timesteps", 1000)
    choices = [
        FlowSchedule(shift=shift, levels=levels, parity=True)
        for shift in (5.0, *case.config.get("shifts", ()))
    ]
    if index is None or want is None:
        return choices[0]
    return min(choices, key=lambda schedule: (schedule.timestep(index) - want).abs().max().item())


def _check_conversions(report: Report, tensors: dict[str, Tensor], schedule: FlowSchedule) -> None:
    x0, noise, timesteps = (tensors[f"input.{name}"] for name in ("x0", "noise", "timestep"))
    flow, index = tensors["input.flow"], tensors["input.timestep_index"]
    nonzero = tensors["input.timestep_nonzero"]
    sigma = schedule.sigma(timesteps)
    added = add_noise(x0, noise, sigma)
    x = tensors.get("output.add_noise", added)  # a last bit counts 200 times at the last level
    low = x0_from_velocity(x.bfloat16(), flow.bfloat16(), sigma).bfloat16()
    got = {
        "timestep_from_index": schedule.timestep(index),
        "add_noise": added,
        "add_noise_2d_timestep": added,
        "training_target": velocity(x0, noise),
        "training_weight": schedule.weight(timesteps),
        "training_weight_at_index": schedule.weights[index],
        "flow_to_x0": x0_from_velocity(x, flow, sigma),
        "x0_to_flow": velocity_from_x0(x, x0, schedule.sigma(nonzero)),
        "flow_to_x0_bf16": low,
        "step_prev_sample": _steps(x, flow, timesteps, schedule, to_final=False),
        "step_to_final": _steps(x, flow, timesteps, schedule, to_final=True),
    }
    for name, value in got.items():
        if (want := tensors.get(f"output.{name}")) is not None:
            assert value.dtype == want.dtype, name
            tolerance = 2**-7 if want.dtype == torch.bfloat16 else 1e-5
            report.close(name, value, want, rtol=tolerance, atol=2e-6)


def _steps(
    x: Tensor, flow: Tensor, timesteps: Tensor, schedule: FlowSchedule, *, to_final: bool
) -> Tensor:
    """One Euler step a row, from no later than the last level but one."""
    rows = []
    for row, place in enumerate(schedule.index(timesteps).clamp(max=schedule.levels - 2).tolist()):
        now, following = schedule.sigmas[place : place + 2].tolist()
        step = StepSchedule(sigmas=(now, 0.0 if to_final else following), timesteps=(1000 * now,))
        rows.append(euler(lambda _, __, v=flow[row]: v, x[row], step))
    return torch.stack(rows)
