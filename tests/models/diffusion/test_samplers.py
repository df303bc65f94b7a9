"""Samplers against an exact flow, published coefficients and diffusers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.diffusion import (
    euler,
    few_step,
    step_schedule,
    unipc,
    unipc_schedule,
    unipc_step,
)

STEPS, SHIFTS = st.integers(1, 50), st.floats(0.5, 12)
SHAPE = (2, 3, 4, 2, 2)


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [1, 2, 3, 5, 8])
def test_a_truncated_timestep_is_that_of_the_exact_level(shift):
    """Whole numbers alone: 6 steps of shift 5 have 500, where floats have 499.99999999999994."""
    for steps in range(1, 51):
        left = [steps - i for i in range(steps)]
        exact = [1000 * shift * n // (steps + (shift - 1) * n) for n in left]
        assert list(step_schedule(steps, float(shift)).timesteps) == exact, steps
    assert step_schedule(6, 5.0).timesteps[-1] == 500


def test_a_shift_is_the_decimal_number_that_was_written():
    """1.1 * 0.5 / (1 + 0.1 * 0.5) is 11 / 21, and 0.25 of shift 3 a half."""
    assert step_schedule(2, 1.1).timesteps == (1000.0, 523.0)
    assert step_schedule(10, 0.1).timesteps[1] == 473.0  # 0.09 / 0.19
    assert step_schedule(4, 3.0).timesteps == (1000.0, 900.0, 750.0, 500.0)


def recorded(denoise, calls):
    def call(x, timestep):
        calls.append((x, timestep))
        return denoise(x, timestep)

    return call


@given(STEPS, SHIFTS)
def test_a_path_with_one_x0_is_followed_exactly(steps, shift):
    """If x0 never changes, every sample lies on the straight path, for any number of steps."""
    schedule, x0, start = unipc_schedule(steps, shift), noise(1).double(), noise(2).double()
    first = schedule.sigmas[0]
    on_path = [(1 - sigma) * x0 + sigma * start for sigma in schedule.sigmas]
    seen = []

    def denoise(x, timestep):
        sigma = schedule.sigmas[len(seen)]
        seen.append(x)
        return (x.double() - x0) / sigma

    result = unipc(denoise, on_path[0].float(), schedule)
    for x, expected in zip([*seen, result], on_path, strict=True):
        torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-4 / first)


def gaussian_flow(spread: float):
    """Data of one Gaussian: the velocity of its flow, and the factor that the flow scales by."""

    def denoise(x, sigma):
        variance = (1 - sigma) ** 2 * spread**2 + sigma**2
        return x * (sigma - (1 - sigma) * spread**2) / variance

    def scale(sigma):
        return math.sqrt((1 - sigma) ** 2 * spread**2 + sigma**2)

    return denoise, scale


def sampling_error(sampler, make_schedule, steps: int) -> float:
    schedule = make_schedule(steps, 3.0)
    velocity, scale = gaussian_flow(0.5)
    level = iter(schedule.sigmas)
    x = noise().double()
    got = sampler(lambda x, _: velocity(x, next(level)), x.float(), schedule)
    return (got - x * scale(0.0) / scale(schedule.sigmas[0])).abs().max().item()


def test_unipc_converges_faster_than_euler():
    first_order = [sampling_error(euler, step_schedule, steps) for steps in (10, 20, 40)]
    second_order = [sampling_error(unipc, unipc_schedule, steps) for steps in (10, 20, 40)]
    for coarse, fine in pairwise(first_order):
        assert 1.5 < coarse / fine < 2.5
    for coarse, fine in pairwise(second_order):
        assert coarse / fine > 3.5
    assert second_order[1] < 0.25 * first_order[1]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 20, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_unipc_matches_diffusers(steps, shift):
    reference = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    reference.set_timesteps(steps, sigmas=np.linspace(0.999, 0, steps + 1)[:-1])
    schedule, velocity = unipc_schedule(steps, shift), gaussian_flow(0.7)[0]
    torch.testing.assert_close(torch.tensor(schedule.sigmas), reference.sigmas)
    want, got, history = noise().double(), noise(), None
    for step, timestep in enumerate(reference.timesteps):
        sigma = schedule.sigmas[step]
        got, history = unipc_step(schedule, step, got, velocity(got, sigma), history)
        want = reference.step(velocity(want, sigma), timestep, want, return_dict=False)[0]
        torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-4)


def test_timesteps_are_those_of_the_original():
    assert unipc_schedule(4).timesteps == (999, 937, 833, 624)
    assert unipc_schedule(3).timesteps == (999, 908, 713)
    assert unipc_schedule(2).timesteps == (999, 833)
    assert unipc_schedule(50).timesteps[:6] == (999, 995, 991, 987, 982, 978)
    assert step_schedule(4).timesteps == (1000, 937, 833, 625)


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        (2, [[0.83322215, 0.16677785], [0, 0, 1]]),
        (3, [[0.90902475, 0.09097525], [0.71412236, 0.01185432, 0.27402332], [0, 0, 0, 1]]),
        (
            4,
            [
                [0.93745309, 0.06254691],
                [0.83322215, 0.01730734, 0.14947052],
                [0.62481237, 0.02043571, -0.06758297, 0.42233489],
                [0, 0, 0, 0, 1],
            ],
        ),
    ],
)
def test_samples_are_known_combinations_of_the_noise_and_the_estimates(steps, rows):
    """With unit vectors for the noise and for each x0, a sample is its row of weights."""
    schedule, units = unipc_schedule(steps), torch.eye(steps + 1)
    x, history = units[0], None
    for step, row in enumerate(rows):
        velocity = (x - units[step + 1]) / schedule.sigmas[step]
        x, history = unipc_step(schedule, step, x, velocity, history)
        expected = torch.tensor([*row, *[0] * (len(units) - len(row))], dtype=torch.float32)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=2e-6)


@given(STEPS, SHIFTS)
def test_tables_fall_to_zero_and_have_a_row_a_step(steps, shift):
    for schedule in (unipc_schedule(steps, shift), step_schedule(steps, shift)):
        assert len(schedule.sigmas) == schedule.steps + 1 == steps + 1
        assert all(a > b for a, b in pairwise(schedule.sigmas))
        assert schedule.sigmas[-1] == 0
        assert all(timestep == int(timestep) >= 0 for timestep in schedule.timesteps)
    unipc_rows = unipc_schedule(steps, shift)
    assert len(unipc_rows.correct) == len(unipc_rows.predict) == steps


SAMPLERS = [
    pytest.param(unipc, unipc_schedule, {}, id="unipc"),
    pytest.param(euler, step_schedule, {}, id="euler"),
    pytest.param(few_step, step_schedule, {"fresh_noise": noise}, id="few_step"),
]


@pytest.mark.parametrize(("sampler", "make_schedule", "options"), SAMPLERS)
def test_latents_stay_float32_and_timesteps_are_numbers(sampler, make_schedule, options):
    calls = []
    denoise = recorded(lambda x, _: x.bfloat16(), calls)
    result = sampler(denoise, noise().bfloat16(), make_schedule(4), **options)
    assert result.dtype == torch.float32
    assert [x.dtype for x, _ in calls] == [torch.float32] * 4
    assert [timestep for _, timestep in calls] == list(make_schedule(4).timesteps)
    assert all(isinstance(timestep, float) for _, timestep in calls)


@pytest.mark.parametrize(("sampler", "make_schedule", "options"), SAMPLERS)
def test_sampling_never_asks_the_device_for_a_number(sampler, make_schedule, options):
    start = torch.empty(SHAPE, device="meta")
    if options:
        options = {"fresh_noise": lambda _: start}
    result = sampler(lambda x, _: x * 0.5, start, make_schedule(5), **options)
    assert result.shape == SHAPE
    assert result.is_meta


@pytest.mark.parametrize(("sampler", "make_schedule", "options"), SAMPLERS)
def test_nothing_is_carried_from_one_call_to_the_next(sampler, make_schedule, options):
    schedule, start = make_schedule(4), noise()
    kept = start.clone()
    results = [sampler(lambda x, t: x * t / 1000, start, schedule, **options) for _ in range(2)]
    assert torch.equal(*results)
    assert torch.equal(start, kept)


@pytest.mark.parametrize(("sampler", "make_schedule", "options"), SAMPLERS)
def test_a_constraint_holds_at_every_call_and_at_the_end(sampler, make_schedule, options):
    calls = []

    def pin(x):
        return torch.cat([torch.full_like(x[:, :, :1], 7.0), x[:, :, 1:]], dim=2)

    denoise = recorded(lambda x, _: x * 0.3, calls)
    result = sampler(denoise, noise(), make_schedule(4), constrain=pin, **options)
    for x in (result, *(x for x, _ in calls)):
        assert (x[:, :, 0] == 7).all()
    free = sampler(lambda x, _: x * 0.3, noise(), make_schedule(4), **options)
    assert torch.equal(result[:, :, 1:], free[:, :, 1:])


def test_few_step_renoises_its_estimate_with_noise_of_each_step():
    schedule, asked, seen = step_schedule(3), [], []

    def fresh(step):
        asked.append(step)
        return noise(step)

    def denoise(x, timestep):
        seen.append(x)
        return torch.zeros_like(x)

    few_step(denoise, noise(), schedule, fresh_noise=fresh)
    assert asked == [1, 2]
    sigma = schedule.sigmas[1]
    torch.testing.assert_close(seen[1], (1 - sigma) * noise() + sigma * noise(1))


def test_one_step_returns_the_estimate():
    start = noise()
    for sampler, make_schedule in ((unipc, unipc_schedule), (euler, step_schedule)):
        schedule = make_schedule(1)
        result = sampler(lambda x, _: 0.25 * x, start, schedule)
        torch.testing.assert_close(result, start * (1 - 0.25 * schedule.sigmas[0]))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps is at least 1, got 0"):
        unipc_schedule(0)


@pytest.mark.parametrize("sampler", ["unipc", "euler", "few_step"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_latents_are_float32_whatever_noise_and_model_are(sampler, kind):
    """Of a bfloat16 model the state between steps keeps what its velocities have."""
    seen = []

    def denoise(x, timestep):
        seen.append(x.dtype)
        return (0.3 * x).to(kind)

    start, extra = noise(1).to(kind), {}
    if sampler == "few_step":
        extra["fresh_noise"] = lambda step: noise(2).to(kind)
    schedule = unipc_schedule(3) if sampler == "unipc" else step_schedule(3)
    run = {"unipc": unipc, "euler": euler, "few_step": few_step}[sampler]
    result = run(denoise, start, schedule, **extra)
    assert result.dtype == torch.float32
    assert seen == [torch.float32] * 3


def test_euler_adds_up_in_float32():
    """Steps of a thousandth vanish beside 1 in bfloat16."""
    schedule = step_schedule(1000, 1.0)
    start = torch.ones(1, 1, dtype=torch.bfloat16)
    result = euler(lambda x, t: torch.ones_like(x, dtype=torch.bfloat16), start, schedule)
    torch.testing.assert_close(result, torch.zeros(1, 1), rtol=0, atol=1e-4)
