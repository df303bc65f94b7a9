"""Rollouts of a student: inference's own blocks, and gradients through the exit steps alone."""

import pytest
import torch

from longlive_models.diffusion import BlockSampler
from longlive_models.objectives import draw_exit_steps, self_rollout
from tests.models.test_generator import STORY, plan_of
from tests.models.tiny_pipeline import tiny_pipeline

BLOCKS, SEEDS = 5, (3, 4)


def pipeline():
    """A window that rolls within the rollout."""
    pipe = tiny_pipeline(steps=3, window=3, shot_sink=0)
    pipe.transformer.requires_grad_(True)
    return pipe


def plans(pipe):
    return [plan_of(pipe, STORY, BLOCKS) for _ in SEEDS]


def test_a_rollout_to_the_last_step_is_what_inference_makes():
    pipe = pipeline()
    wanted = pipe.generator(list(SEEDS), pipe.settings).blocks(plans(pipe), BLOCKS)
    latents = torch.cat([block.latents for block in wanted], dim=2)
    made = pipe.generator(list(SEEDS), pipe.settings)
    got = self_rollout(made, plans(pipe), exit_steps=[2] * BLOCKS)
    torch.testing.assert_close(got.latents.detach(), latents, rtol=1e-5, atol=1e-5)
    assert got.latents.requires_grad
    assert got.exit_steps == (2,) * BLOCKS
    assert len(got.checks) == BLOCKS
    assert made.cache.blocks == BLOCKS


def test_gradients_are_the_sum_of_the_blocks_that_train():
    """Of each block alone: what the cache keeps is detached."""
    pipe, exits = pipeline(), (2, 0, 1, 1, 2)

    def gradients(trained: int) -> dict[str, torch.Tensor]:
        made = pipe.generator(list(SEEDS), pipe.settings)
        pipe.transformer.zero_grad()
        latents = self_rollout(made, plans(pipe), exit_steps=exits, trained_blocks=trained).latents
        latents.square().sum().backward()
        return {n: p.grad.clone() for n, p in pipe.transformer.named_parameters()}

    def of_block(number: int) -> dict[str, torch.Tensor]:
        made = pipe.generator(list(SEEDS), pipe.settings)
        pipe.transformer.zero_grad()
        latents = self_rollout(made, plans(pipe), exit_steps=exits[: number + 1]).latents
        frames = latents.shape[2] // (number + 1)
        latents[:, :, -frames:].square().sum().backward()
        return {n: p.grad.clone() for n, p in pipe.transformer.named_parameters()}

    last_two = gradients(2)
    parts = of_block(3), of_block(4)
    for name, got in last_two.items():
        wanted = parts[0][name] + parts[1][name]
        scale = wanted.abs().max().item()
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * scale + 1e-9)


def test_a_rollout_that_trains_nothing_has_the_same_numbers_and_no_graph():
    pipe, exits = pipeline(), (2, 0, 1, 1, 2)
    one, other = (
        self_rollout(
            pipe.generator(list(SEEDS), pipe.settings),
            plans(pipe),
            exit_steps=exits,
            trained_blocks=trained,
        ).latents
        for trained in (None, 0)
    )
    assert one.requires_grad
    assert not other.requires_grad
    torch.testing.assert_close(one.detach(), other, rtol=1e-6, atol=1e-6)


def test_a_rollout_goes_on_after_blocks_that_are_no_part_of_it():
    pipe = pipeline()
    whole = self_rollout(
        pipe.generator(list(SEEDS), pipe.settings), plans(pipe), exit_steps=[2] * 3
    )
    made = pipe.generator(list(SEEDS), pipe.settings)
    list(made.blocks(plans(pipe), 2))
    got = self_rollout(made, plans(pipe), exit_steps=[2])
    frames = got.latents.shape[2]
    wanted = whole.latents[:, :, -frames:]
    torch.testing.assert_close(got.latents, wanted, rtol=1e-5, atol=1e-5)


def test_exit_steps_are_those_of_the_blocks_and_all_are_drawn():
    sampler = BlockSampler(name="few_step", steps=(4, 2), shift=5.0)
    generator = torch.Generator().manual_seed(0)
    same = [draw_exit_steps(sampler, generator, blocks=3) for _ in range(200)]
    assert {exits[0] for exits in same} == {0, 1, 2, 3}
    assert all(exits[1] == exits[2] == exits[0] // 2 for exits in same)
    own = [draw_exit_steps(sampler, generator, blocks=3, same=False) for _ in range(200)]
    assert {exits[1:] for exits in own} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_ranks_with_one_seed_draw_the_same():
    sampler = BlockSampler(name="unipc", steps=4, shift=5.0)
    one, other = (
        [draw_exit_steps(sampler, rank, blocks=2, same=False) for _ in range(9)]
        for rank in (torch.Generator().manual_seed(7), torch.Generator().manual_seed(7))
    )
    assert one == other


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"exit_steps": []}, "without exit steps has no blocks"),
        ({"exit_steps": [3]}, "block 0 has 3 steps"),
        ({"exit_steps": [0], "trained_blocks": 2}, "trained_blocks .*has 1 blocks"),
    ],
)
def test_steps_and_blocks_that_there_are_not_are_refused(wrong, words):
    pipe = pipeline()
    with pytest.raises(ValueError, match=words):
        self_rollout(pipe.generator(list(SEEDS), pipe.settings), plans(pipe), **wrong)
