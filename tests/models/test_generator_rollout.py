"""Blocks denoised for training: gradients through one step, against a loop that keeps all."""

import pytest
import torch
from torch import Tensor

from longlive_core.kv_cache import PagedKVCache, PlainCodec
from longlive_core.noise import gaussian
from longlive_core.nvfp4 import NVFP4PageCodec
from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.choices import SAMPLERS
from longlive_models.diffusion import BlockSampler, unipc_schedule, unipc_step
from longlive_models.generator import BlockGenerator
from longlive_models.latent_block import LatentBlock
from tests.models.test_generator import PER_BLOCK, STORY, Kept, plan_of
from tests.models.tiny_pipeline import tiny_pipeline

BLOCKS, STEPS, SEED = 6, 3, 3
EXITS = (2, 0, 1, 1, 2, 0)  # of each block


def double(**settings: object) -> LongLivePipeline:
    """The tiny model in float64, its transformer with gradients; the window rolls over."""
    pipe = tiny_pipeline(**{"steps": STEPS, "window": 3, "shot_sink": 0, **settings})
    pipe.transformer.double().requires_grad_(True)
    pipe.text.double()
    return pipe


def generator(pipe: LongLivePipeline, codec=None) -> BlockGenerator:
    made = pipe.generator([SEED], pipe.settings)
    codec = PlainCodec(torch.float64) if codec is None else codec
    return BlockGenerator(
        made.model,
        made.text,
        PagedKVCache(made.cache.layout, made.cache.policy, codec),
        sampler=made.sampler,
        latent_size=made.latent_size,
        seeds=made.seeds,
        guidance=made.guidance,
        negative_prompt=made.negative_prompt,
    )


def rolled(made: BlockGenerator, pipe: LongLivePipeline, exits=EXITS) -> list[LatentBlock]:
    plan = plan_of(pipe, STORY, BLOCKS)
    return [made.rollout(n, [plan.block(n)], exit_step=exits[n]) for n in range(len(exits))]


def weighed(latents: list[Tensor]) -> Tensor:
    """A loss in which every number of every block has a weight of its own."""
    torch.manual_seed(11)
    return sum((torch.randn(x.shape).double() * x).sum() for x in latents)


def gradients(pipe: LongLivePipeline, loss: Tensor) -> dict[str, Tensor]:
    pipe.transformer.zero_grad()
    loss.backward()
    return {
        name: p.grad.clone()
        for name, p in pipe.transformer.named_parameters()
        if p.grad is not None
    }


def plain_rollout(pipe: LongLivePipeline) -> list[Tensor]:
    """The same blocks in float64 from first principles: every page kept, and detached."""
    settings, plan = pipe.settings, plan_of(pipe, STORY, BLOCKS)
    memories, anchor, made = {"prompt": Kept(), "negative": Kept()}, 0, []

    def velocity(x: Tensor, t: float, text: str, memory: Kept, block: int) -> Tensor:
        places = torch.arange(block * PER_BLOCK, (block + 1) * PER_BLOCK) + prompt.offset
        return pipe.transformer(
            x,
            torch.full((1, PER_BLOCK), t, dtype=torch.float64),
            pipe.text.encode([text])[:, None].detach(),
            positions=places,
            memory=memory,
        )

    def guided(x: Tensor, t: float, block: int) -> Tensor:
        cond = velocity(x, t, prompt.text, memories["prompt"], block)
        uncond = velocity(x, t, settings.negative_prompt, memories["negative"], block)
        return uncond + settings.guidance * (cond - uncond)

    schedule = unipc_schedule(settings.steps, settings.shift)
    for block in range(BLOCKS):
        prompt = plan.block(block)
        for memory in memories.values():
            memory.own, memory.visible = block, settings.policy.visible(block, anchor)
        frames = range(block * PER_BLOCK, (block + 1) * PER_BLOCK)
        x, history = gaussian(SEED, frames, (4, 4, 4)).transpose(0, 1)[None].double(), None
        with torch.no_grad():
            for step in range(EXITS[block]):
                predicted = guided(x, schedule.timesteps[step], block)
                x, history = unipc_step(schedule, step, x, predicted, history)
                x = x.double()
        predicted = guided(x, schedule.timesteps[EXITS[block]], block)
        made.append(x - schedule.sigmas[EXITS[block]] * predicted)
        with torch.no_grad():
            guided(made[-1].detach(), 0.0, block)
        anchor = block if prompt.cut else anchor
    return made


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_values_and_gradients_are_those_of_a_plain_loop_in_float64(guidance):
    """Tolerance: the library's latents are float32 between steps, and so is its estimate."""
    pipe = double(guidance=guidance, negative_prompt="blue" if guidance != 1 else "")
    wanted = plain_rollout(pipe)
    expected = gradients(pipe, weighed(wanted))
    blocks = rolled(generator(pipe), pipe)
    got = gradients(pipe, weighed([block.latents for block in blocks]))
    for block, x in zip(blocks, wanted, strict=True):
        torch.testing.assert_close(block.latents.double(), x, rtol=1e-5, atol=1e-5)
        block.checks.require(block.index, {"transformer": pipe.transformer})
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5 * scale + 1e-9)


@pytest.mark.parametrize("encodes", [False, True])
def test_a_layer_that_runs_again_in_backward_sees_what_it_saw(encodes):
    """Gradient checkpointing, over a cache whose window has moved on by then."""
    found = []
    for again in (False, True, "attention"):
        pipe = tiny_pipeline(steps=STEPS, window=3, shot_sink=0)
        pipe.transformer.requires_grad_(True)
        pipe.transformer.gradient_checkpointing = again
        codec = NVFP4PageCodec(dtype=torch.float32) if encodes else PlainCodec(torch.float32)
        blocks = rolled(generator(pipe, codec), pipe)
        found.append(gradients(pipe, weighed([block.latents for block in blocks])))
    assert found[0]
    for again in found[1:]:
        assert found[0].keys() == again.keys()
        for name, gradient in found[0].items():
            assert_bitwise_equal(again[name], gradient)


def test_a_loss_on_a_block_does_not_reach_those_before_it():
    """Block 1's gradients are those after a snapshot, which holds numbers alone."""
    pipe, plan = double(), plan_of(tiny_pipeline(), STORY, BLOCKS)
    made, resumed = generator(pipe), generator(pipe)
    made.rollout(0, [plan.block(0)], exit_step=1)
    resumed.restore(made.snapshot())
    wanted, got = (
        gradients(pipe, one.rollout(1, [plan.block(1)], exit_step=1).latents.sum())
        for one in (resumed, made)
    )
    assert wanted.keys() == got.keys()
    for name, gradient in wanted.items():
        assert_bitwise_equal(got[name], gradient)
    assert not any(x.requires_grad for x in made.cache.tensors().values())


def test_only_what_needs_gradients_gets_them():
    """Queries alone, say: keys are then plain views of pages, which later blocks write over."""
    pipe = double()
    pipe.transformer.requires_grad_(False)
    wanted = [block.self_attn.q.weight.requires_grad_(True) for block in pipe.transformer.blocks]
    blocks = rolled(generator(pipe), pipe)
    found = gradients(pipe, weighed([block.latents for block in blocks]))
    assert len(found) == len(wanted)
    assert all(gradient.abs().max() > 0 for gradient in found.values())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_rollout_to_the_last_step_gives_the_blocks_of_inference(name):
    pipe = tiny_pipeline(sampler=name, steps=(3, 2))
    pipe.transformer.requires_grad_(True)
    plan = plan_of(pipe, STORY, BLOCKS)
    plain, trained = generator(pipe, PlainCodec()), generator(pipe, PlainCodec())
    for n, last in enumerate((2, 1, 1, 1)):
        wanted = plain.generate(n, [plan.block(n)]).latents
        got = trained.rollout(n, [plan.block(n)], exit_step=last).latents
        assert got.requires_grad
        assert not wanted.requires_grad
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-5, atol=1e-5)


def test_a_given_first_frame_stays_and_gets_no_gradient():
    pipe = tiny_pipeline()
    pipe.transformer.requires_grad_(True)
    image = torch.randn(1, 4, 1, 4, 4)
    made = pipe.generator([SEED], pipe.settings, image=image)
    plan = plan_of(pipe, STORY, BLOCKS)
    latents = made.rollout(0, [plan.block(0)], exit_step=1).latents
    assert_bitwise_equal(latents[:, :, :1].detach(), image)
    latents[:, :, :1].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in pipe.transformer.parameters())


@pytest.mark.parametrize("step", [-1, 2, 1.0])
def test_a_step_that_the_block_does_not_have_is_refused(step):
    pipe = tiny_pipeline(steps=(4, 2))
    made, plan = pipe.generator([SEED], pipe.settings), plan_of(pipe, STORY, BLOCKS)
    made.generate(0, [plan.block(0)])
    rollout = getattr(type(made).rollout, "__wrapped__", type(made).rollout)
    with pytest.raises(ValueError, match="exit_step .*block 1 has 2 steps, counted from 0"):
        rollout(made, 1, [plan.block(1)], exit_step=step)
    assert made.cache.blocks == 1


def test_a_block_sampler_gives_each_block_its_schedule():
    sampler = BlockSampler(name="unipc", steps=(4, 2), shift=5.0)
    assert [sampler.schedule(n).steps for n in range(4)] == [4, 2, 2, 2]
