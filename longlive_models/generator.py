"""The loop that generates latents block by block with a key-value cache.

For each block: noise, a few denoising steps that read the cache, and one pass over the clean
latents that writes the block's keys and values to it.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longlive_core.checks import real, whole
from longlive_core.host_numbers import numbers_on
from longlive_core.kv_cache import AbsolutePositions, PagedKVCache, PositionPolicy
from longlive_core.noise import gaussian
from longlive_models.diffusion import BlockSampler, guide, sample, x0_from_velocity
from longlive_models.diffusion.flow import check_guidance
from longlive_models.diffusion.samplers import Constrain, StepDone, unchanged
from longlive_models.finite import LARGEST_WEIGHT, Check, Checks, sound, sound_weights
from longlive_models.first_frame import clean_first_frame, pin_first_frame
from longlive_models.gradient_memory import GradientMemory
from longlive_models.latent_block import (
    GeneratorState,
    Image,
    KeptBlock,
    LatentBlock,
    Latents,
    check_latents,
)
from longlive_models.prompt_encoder import PromptEncoder
from longlive_models.prompts.storyboard import BlockPrompt, PromptSchedule
from longlive_models.text import TextEncoder
from longlive_models.wan import TextContext, WanTransformer
from longlive_models.wan.attention import Memory

NOISE_OF_A_STEP = 2**40
"""Where a sampler that adds noise takes it from: step ``s`` of frame ``f`` takes the noise of frame
``f + s * NOISE_OF_A_STEP``, which no video reaches."""


class BlockGenerator:
    """Generates the latents of one video, or of several with the same cuts side by side.

    Under guidance the cache holds two samples for each video: first those of the prompts, then
    those of the negative prompt; ``cache.layout.samples`` is twice the number of videos. Without
    guidance (1) there is no second half, and the negative prompt is not even encoded.
    See LongLive-2.0 (arXiv 2605.18739), autoregressive inference.

    Args:
        model: the transformer, in evaluation mode, on its device.
        text: the text encoder. Prompts are encoded one by one, so that none depends on another.
        cache: an empty cache with a sample for each video and guidance branch.
        sampler: how each block is denoised, and in how many steps.
        latent_size: (height, width) of the latents.
        seeds: one for each video; noise depends on (seed, latent frame) alone.
        guidance: 1 follows the prompt as trained; more follows it more strongly.
        negative_prompt: what guidance moves away from.
        t_scale: multiplies temporal positions.
        positions: the policy that places blocks and their past in time; absolute by default.
        image: for image-to-video, latents of the first frame, [videos, channels, 1, height, width].
    """

    def __init__(
        self,
        model: WanTransformer,
        text: TextEncoder,
        cache: PagedKVCache,
        *,
        sampler: BlockSampler,
        latent_size: tuple[int, int],
        seeds: Sequence[int],
        guidance: float = 1.0,
        negative_prompt: str = "",
        t_scale: float = 1.0,
        positions: PositionPolicy | None = None,
        image: Image | None = None,
    ) -> None:
        guidance = check_guidance(guidance)
        branches = 1 if guidance == 1 else 2
        if not seeds or cache.layout.samples != branches * len(seeds):
            raise ValueError(
                f"the cache holds {cache.layout.samples} samples, but {len(seeds)} videos with "
                f"guidance {guidance} need {branches * len(seeds)}: build the CacheLayout with "
                f"one sample for each video and branch, and give one seed or more."
            )
        positions = AbsolutePositions() if positions is None else positions
        if positions.rotated != cache.layout.rotated:
            raise ValueError(
                f"{positions} need a cache of CacheLayout(rotated={positions.rotated}), got "
                f"{cache.layout}: it says whether keys are cached with their positions. "
                f"Build the layout for the policy."
            )
        seeds = [check_seed(seed) for seed in seeds]
        why = "it multiplies temporal positions. Pass 1.0 for the model's own."
        t_scale = real("t_scale", t_scale, above=0, why=why)
        if image is not None:
            shape = (len(seeds), model.config.in_channels, 1, *latent_size)
            check_latents("an image", image, shape)
        self.model = model
        self.text = text
        self.cache = cache
        self.sampler = sampler
        self.latent_size = latent_size
        self.seeds = tuple(seeds)
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.t_scale = t_scale
        self.positions = positions
        self._image = image
        self._kept: dict[int, KeptBlock] = {}
        self._prompts = PromptEncoder(model, text, None if guidance == 1 else negative_prompt)
        self._weights_checked = False

    def blocks(self, schedules: Sequence[PromptSchedule], count: int) -> Iterator[LatentBlock]:
        """Generate blocks 0 to ``count`` - 1; ``schedules`` has one entry for each video."""
        for index in range(count):
            yield self.generate(index, [schedule.block(index) for schedule in schedules])

    @torch.no_grad()
    def generate(
        self, index: int, prompts: Sequence[BlockPrompt], *, on_step: StepDone | None = None
    ) -> LatentBlock:
        """Denoise block ``index``, write it to the cache, and return it.

        ``on_step(step, latents)`` is called after each step; an error in it ends the block.

        Raises:
            ValueError: there is not one prompt for each video, or the videos are cut at different
                blocks.
        """
        prompt, text = self._begin(index, prompts)
        steps = self.sampler.schedule(index).steps
        answers: dict[Check, Tensor] = {}
        latents = self._denoise(index, prompt, text, answers, on_step=on_step)
        answers[Check("the latents", steps)] = sound(latents)
        if not self._weights_checked:
            self._weights_checked = True
            weights = Check("weights of the transformer", 1, LARGEST_WEIGHT)
            answers[weights] = sound_weights(self.model)
        self._finish(index, prompt, text, latents)
        return LatentBlock(index, latents, prompt, Checks.join(answers))

    @torch.no_grad()
    def remember(self, index: int, prompts: Sequence[BlockPrompt], latents: Latents) -> None:
        """Take given latents as block ``index``: one clean pass writes them to the cache.

        Raises:
            ValueError: as ``generate``, and for latents of another shape than a block's.
        """
        wan = self.model.config
        shape = (len(self.seeds), wan.in_channels, wan.frames_per_block, *self.latent_size)
        check_latents("a block", latents, shape)
        prompt, text = self._begin(index, prompts)
        self._finish(index, prompt, text, latents.to(self.device, torch.float32))

    def rollout(
        self,
        index: int,
        prompts: Sequence[BlockPrompt],
        *,
        exit_step: int,
        gradients: bool = True,
    ) -> LatentBlock:
        """Denoise block ``index`` for training: gradients flow through one step, the last taken.

        Steps before ``exit_step`` are those of ``generate``, without gradients. The velocity of
        ``exit_step`` is computed with them, later steps are not taken, and the block is the clean
        estimate of that step, ``x - sigma v``. What the cache keeps of it is detached: a loss on
        one block does not reach the blocks before it. See LongLive-2.0 (arXiv 2605.18739),
        distribution matching distillation.

        Weights must not change between the first block and the backward pass of the last one.
        Gradient checkpointing works: what the step saw of the cache is kept until then.

        Args:
            index: the number of the next block.
            prompts: one for each video.
            exit_step: which step of the block carries gradients, from 0; all ranks and all videos
                of a batch take the same.
            gradients: False for a block that trains nothing: the same numbers, and no graph.

        Returns:
            the block; ``latents`` (float32) carry gradients.

        Raises:
            ValueError: as ``generate``, and for a step that the block does not have.
        """
        schedule = self.sampler.schedule(index)
        why = f"block {index} has {schedule.steps} steps, counted from 0."
        exit_step = whole("exit_step", exit_step, at_least=0, at_most=schedule.steps - 1, why=why)
        answers: dict[Check, Tensor] = {}
        with torch.no_grad():
            prompt, text = self._begin(index, prompts)
            x = self._denoise(index, prompt, text, answers, stop=exit_step)
        memory = GradientMemory(self.cache, index)
        with torch.set_grad_enabled(gradients):
            own_text = self._prompts.encode_again([prompt.text for prompt in prompts])
            timestep = schedule.timesteps[exit_step]
            predicted = self._guided(x, timestep, own_text, index, prompt.offset, memory)
            pin = self._pin(index)
            latents = pin(x0_from_velocity(x, predicted, schedule.sigmas[exit_step]))
        answers[Check("the velocities", exit_step + 1)] = sound(predicted.detach())
        with torch.no_grad():
            self._finish(index, prompt, text, latents.detach())
        return LatentBlock(index, latents, prompt, Checks.join(answers))

    def _begin(self, index: int, prompts: Sequence[BlockPrompt]) -> tuple[BlockPrompt, TextContext]:
        """Open a block's page; return its prompt (the first video's) and the text of all videos."""
        self._check(index, prompts)
        prompt, text = prompts[0], self._prompts.encode([prompt.text for prompt in prompts])
        if prompt.recache:
            self._encode_again(text)
        self.cache.begin_block(index)
        return prompt, text

    def _denoise(
        self,
        index: int,
        prompt: BlockPrompt,
        text: TextContext,
        answers: dict[Check, Tensor],
        *,
        on_step: StepDone | None = None,
        stop: int | None = None,
    ) -> Latents:
        """The latents after all steps of a block, or before step ``stop``; adds a check of each."""
        steps = itertools.count(1)

        def denoise(latents: Tensor, timestep: float) -> Tensor:
            predicted = self._guided(latents, timestep, text, index, prompt.offset, self.cache)
            answers[Check("the velocities", next(steps))] = sound(predicted)
            return predicted

        return sample(
            self.sampler.sampler,
            denoise,
            self._noise(index),
            self.sampler.schedule(index),
            fresh_noise=partial(self._noise, index),
            constrain=self._pin(index),
            on_step=on_step,
            stop=stop,
        )

    def _finish(self, index: int, prompt: BlockPrompt, text: TextContext, latents: Latents) -> None:
        """Fill the block's page with a clean pass, and start a new shot if the block begins one."""
        if prompt.forget:
            self.cache.start_shot(forget=True)
        self._fill_page(latents, text, index, prompt.offset)
        if prompt.cut:
            self.cache.start_shot()
        self._kept[index] = KeptBlock(latents, prompt.offset)
        self._kept = {page: self._kept[page] for page in self.cache.pages}

    def _pin(self, index: int) -> Constrain:
        """The function that puts a given first frame into the latents of a block."""
        if self._image is None or index > 0:
            return unchanged
        return partial(pin_first_frame, image=self._image)

    def snapshot(self) -> GeneratorState:
        """The generator's state on the CPU, to continue bit for bit; call it between two blocks."""
        kept = {
            page: KeptBlock(block.latents.to("cpu", copy=True), block.offset)
            for page, block in self._kept.items()
        }
        image = self._image if self.cache.blocks == 0 else None
        return GeneratorState(
            cache=self.cache.snapshot(), kept=kept, image=None if image is None else image.cpu()
        )

    def restore(self, state: GeneratorState) -> None:
        """Continue from a snapshot. Raises ValueError if it is of another kind of cache."""
        self.cache.restore(state.cache)
        self._kept = {
            page: KeptBlock(block.latents.to(self.device), block.offset)
            for page, block in state.kept.items()
        }
        self._image = None if state.image is None else state.image.to(self.device)

    def fork(self) -> "BlockGenerator":
        """A second generator with the same past; the two share no state from now on."""
        other = BlockGenerator(
            self.model,
            self.text,
            self.cache.fork(),
            sampler=self.sampler,
            latent_size=self.latent_size,
            seeds=self.seeds,
            guidance=self.guidance,
            negative_prompt=self.negative_prompt,
            t_scale=self.t_scale,
            positions=self.positions,
            image=self._image,
        )
        other._kept = dict(self._kept)
        return other

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model computes in."""
        return self.model.patch_embedding.weight.dtype

    def _check(self, index: int, prompts: Sequence[BlockPrompt]) -> None:
        if len(prompts) != len(self.seeds):
            raise ValueError(
                f"got {len(prompts)} prompts for {len(self.seeds)} seeds: each video needs one of "
                f"both."
            )
        if len({(p.cut, p.offset, p.recache, p.forget) for p in prompts}) > 1:
            raise ValueError(
                f"the videos of one batch must be cut at the same blocks, but block {index} "
                f"differs among them: the cache has one shot anchor. Generate them one by one."
            )

    def _guided(
        self,
        latents: Tensor,
        timestep: float,
        text: TextContext,
        block: int,
        offset: float,
        memory: Memory,
    ) -> Tensor:
        """The velocity of a block's latents at a timestep, after guidance."""
        timesteps = latents.new_full((len(latents), latents.shape[2]), timestep)
        if self._image is not None and block == 0:
            timesteps = clean_first_frame(timesteps)
        predicted = self._velocity(latents, timesteps, text, block, offset, memory)
        if self.guidance == 1:
            return predicted
        conditional, unconditional = predicted.chunk(2)
        return guide(conditional, unconditional, self.guidance)

    def _velocity(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: TextContext,
        block: int,
        offset: float,
        memory: Memory,
        *,
        store: bool = False,
    ) -> Any:
        """The velocity, under guidance of both branches; a pass that stores ends without one."""
        if self.guidance != 1:
            latents, timesteps = torch.cat([latents, latents]), torch.cat([timesteps, timesteps])
        order, frames = self.cache.order, self.model.config.frames_per_block
        places = self.positions.places(order, block, frames, offset)
        tensor = partial(numbers_on, latents.device, dtype=torch.float64)
        return self.model(
            latents.to(self.dtype),
            timesteps,
            text,
            positions=tensor(places.own),
            key_positions=None if places.keys is None else tensor(places.keys),
            t_scale=self.t_scale,
            memory=memory,
            store=store,
            velocity=not store,
        )

    def _fill_page(self, latents: Tensor, text: TextContext, block: int, offset: float) -> None:
        """The clean pass: it fills the page in progress."""
        timesteps = latents.new_zeros(len(latents), latents.shape[2])
        self._velocity(latents, timesteps, text, block, offset, self.cache, store=True)
        self.cache.commit()

    def _encode_again(self, text: TextContext) -> None:
        """Encode the pages that the next block sees once more, under a new text, oldest first."""
        for page in self.cache.visible_next:
            self.cache.begin_rewrite(page)
            kept = self._kept[page]
            self._fill_page(kept.latents, text, page, kept.offset)

    def _noise(self, block: int, step: int = 0) -> Latents:
        """The noise for a step of a block; it depends on seed, latent frame and step alone."""
        size = self.model.config.frames_per_block
        frames = range(block * size, (block + 1) * size)
        shape = (self.model.config.in_channels, *self.latent_size)
        drawn = [frame + step * NOISE_OF_A_STEP for frame in frames]
        noise = torch.stack([gaussian(seed, drawn, shape) for seed in self.seeds]).transpose(1, 2)
        if self.device.type == "cuda":  # from pinned memory the host need not wait
            return noise.pin_memory().to(self.device, non_blocking=True)
        return noise.to(self.device)


def check_seed(seed: int) -> int:
    """Return the seed as an int. Raises ValueError for anything but a whole number of 64 bits."""
    gaussian(seed, [], (1,))
    return int(seed)
