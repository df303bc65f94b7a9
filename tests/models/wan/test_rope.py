"""Rotary positions: rotations they are, relative they act, and long they hold."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.wan.rope import frequencies, rotate, rotation

GRID = (2, 3)
positions = st.floats(-100, 100_000, allow_nan=False).map(lambda x: round(x, 2))


def turn(at: list[float], head_dim: int = 16, **how: object):
    return rotation(torch.tensor([at], dtype=torch.float64), GRID, head_dim, **how)


def queries(frames: int, head_dim: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, frames * math.prod(GRID), 2, head_dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@given(positions, positions, st.sampled_from([6, 12, 16, 48]))
def test_scores_depend_on_the_distance_in_time_alone(first, second, head_dim):
    q, k = queries(1, head_dim), queries(1, head_dim, seed=1)

    def scores(a: float, b: float) -> torch.Tensor:
        turned = (
            rotate(x, turn([at], head_dim, dtype=torch.float64)) for x, at in ((q, a), (k, b))
        )
        return torch.einsum("bqhd,bkhd->bhqk", *turned)

    moved = first + 1000.5, second + 1000.5
    torch.testing.assert_close(scores(first, second), scores(*moved), rtol=0, atol=1e-8)


@given(positions)
def test_lengths_stay(at):
    x = queries(1)
    torch.testing.assert_close(
        rotate(x, turn([at], dtype=torch.float64)).norm(dim=-1), x.norm(dim=-1)
    )


def test_the_angle_of_each_pair_is_position_times_frequency():
    head_dim = 16  # 8 pairs: 4 turn with time, 2 with the row, 2 with the column
    x = queries(2, head_dim)
    got = torch.view_as_complex(
        rotate(x, turn([5.0, 7.5], head_dim, dtype=torch.float64)).unflatten(-1, (-1, 2))
    )
    was = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    for token, (frame, row, column) in enumerate(
        (f, y, x) for f in (5.0, 7.5) for y in range(GRID[0]) for x in range(GRID[1])
    ):
        angles = [frame * 10000 ** (-j / 4) for j in range(4)]
        angles += [row * 10000 ** (-j / 2) for j in range(2)]
        angles += [column * 10000 ** (-j / 2) for j in range(2)]
        factor = torch.polar(
            torch.ones(8, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64)
        )
        torch.testing.assert_close(got[0, token], was[0, token] * factor)


def test_an_hour_of_video_is_exact_to_the_last_bit_of_float32():
    hour = 3600 * 24 / 4  # latent frames
    table = turn([hour + 0.25])
    angles = (hour + 0.25) * frequencies(4, 10000.0, "cpu")
    sine = angles.sin().float()
    assert torch.equal(table.cos[0, 0, 0, :4, 0], angles.cos().float())
    assert torch.equal(table.sin[0, 0, 0, :4], torch.stack((-sine, sine), -1))


@given(st.lists(positions, min_size=1, max_size=3), st.floats(0.1, 4))
def test_t_scale_scales_time_and_nothing_else(at, t_scale):
    scaled, moved = turn(at, t_scale=t_scale), turn([x * t_scale for x in at])
    assert torch.equal(scaled.cos, moved.cos)
    assert torch.equal(scaled.sin, moved.sin)


def test_samples_may_stand_at_different_times():
    both = rotation(torch.tensor([[0.0, 1.0], [8.0, 9.0]]), GRID, 16)
    x = queries(2).float().expand(2, -1, -1, -1)
    got = rotate(x, both)
    for sample, at in enumerate(([0.0, 1.0], [8.0, 9.0])):
        assert torch.equal(got[sample], rotate(x[sample : sample + 1], turn(at))[0])


def test_the_gradient_is_the_rotation_back():
    x = queries(1).requires_grad_()
    table = turn([3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: rotate(y, table), x)
    back = turn([3.0], dtype=torch.float64)
    back.sin.neg_()
    upstream = torch.randn_like(x)
    rotate(x, table).backward(upstream)
    torch.testing.assert_close(x.grad, rotate(upstream, back))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_queries_keep_their_dtype_and_are_turned_in_float32(dtype):
    x = queries(1).to(dtype)
    got = rotate(x, turn([12345.0]))
    assert got.dtype == dtype
    assert torch.equal(got, rotate(x.float(), turn([12345.0])).to(dtype))
