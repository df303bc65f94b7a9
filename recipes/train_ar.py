"""Teacher-forced autoregressive training of the pocket model on moving shapes.

Clips are drawn and encoded once; every step denoises all blocks of a batch of clips at once, under
the mask that the cache's window gives. Short clips come first, then clips longer than the window.
The text encoder trains along. Reproduces the AR stage of LongLive-2.0 (arXiv 2605.18739).

Command:  longlive train ar_pocket          Measured: see recipes/README.md
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longlive_core.sequence_parallel import BalancedSP, masked_mean
from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives.teacher_forcing import TeacherForced, teacher_forced
from longlive_models.pipeline import LongLivePipeline
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.stream import Video
from longlive_models.text import PocketTextEncoder
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.train_ar import TrainAR as TrainAR
from longlive_recipes.configs.train_ar import (
    ar_5b,
    ar_lora,
    ar_pocket,
    ar_pocket_long,
    ar_pocket_spins,
    ar_tiny,
)
from longlive_recipes.data.text_features import PromptTable
from longlive_recipes.moving_shapes.dataset import LatentClips, TokenClips
from longlive_recipes.run_record import code_version
from longlive_recipes.training.ar_batch import Batch, Drawn, Own, draw_given, over_frames
from longlive_recipes.training.ar_checks import check as check
from longlive_recipes.training.ar_clips import clips_of_run
from longlive_recipes.training.ar_memory import predict as predict
from longlive_recipes.training.ar_parts import adapt, begin_with, text_part
from longlive_recipes.training.ar_parts import unfilled_parts as unfilled_parts
from longlive_recipes.training.ar_results import pipeline_of, result_of, write_results
from longlive_recipes.training.fit import fit, load_average
from longlive_recipes.training.module import TrainingModule, maybe_compile
from longlive_recipes.training.optimizers import ONLY
from longlive_recipes.training.parallel import Parallel, Ranks, shard
from longlive_recipes.training.recycled import KEY, Recycled, RunErrors
from longlive_recipes.training.schedule import current_phase

PRESETS = {
    "ar_pocket": ar_pocket,
    "ar_pocket_long": ar_pocket_long,
    "ar_pocket_spins": ar_pocket_spins,
    "ar_tiny": ar_tiny,
    "ar_lora": ar_lora,
    "ar_5b": ar_5b,
}

Model = Callable[..., Tensor]
Random = torch.Generator


class TrainARModule(TrainingModule):
    """One transformer and its text encoder, on clips that are encoded before the first step.

    Every rank draws a batch alike, random numbers and all, and keeps its part of it.
    """

    model: WanTransformer
    text: PocketTextEncoder | PromptTable
    velocity: Model

    def __init__(self, config: TrainAR, ranks: Ranks | None = None) -> None:
        super().__init__(config.budget, config.plan, config.seed)
        self.config = config
        self.ranks = Ranks() if ranks is None else ranks
        self.schedule = FlowSchedule(shift=config.shift, weighting=config.weighting)
        self.errors: RunErrors | None = None
        if config.recycling.recycles:
            self.errors = RunErrors(
                config.recycling,
                frames_per_block=config.model.frames_per_block,
                schedule=self.schedule,
                seed=config.seed,
                folder=Path(config.run.output) / "errors",
            )
        self._exchanges: dict[tuple[int, int], BalancedSP] = {}

    def configure_model(self) -> None:
        """Build, quantize, shard, in that order; the first weights are the seed's."""
        if hasattr(self, "model"):
            return
        config = self.config
        if self.device_mesh is not None:
            self.ranks = Ranks.of(self.device_mesh)
        shared = config.parallel.sequence > 1
        partition = config.partition(config.phases[0].length, 1)
        self.sp = BalancedSP(self.ranks.sequence, partition, heads=config.model.num_heads)
        with torch.device("cpu"):
            torch.manual_seed(self.seed)
            self.model = WanTransformer(
                config.model,
                exchange=self.sp if shared else None,
                gradient_checkpointing=config.checkpointing,
            )
            self.text = text_part(config)
            if config.start_from:
                begin_with(self.model, self.text, config.start_from)
            several = config.parallel.ranks > 1
            adapt(self.model, self.text, config, self.ranks.world.max if several else None)
        self.distribute()

    def distribute(self) -> None:
        """Share the weights out over the ranks; one rank alone may compile."""
        if self.config.parallel.ranks > 1:
            shard(self.model, self.model.blocks, self.ranks.world)
            if isinstance(self.text, PocketTextEncoder):
                shard(self.text, (), self.ranks.world)
            self.velocity = self.model.__call__  # with hooks; a module would be a part, held twice
        else:
            self.velocity = maybe_compile(self.model.forward, self.config.run.compile)

    def on_fit_start(self) -> None:
        train, fresh = clips_of_run(
            self.config, self.exchange, writes=self.ranks.first, device=self.device
        )
        self.sets = {blocks: self.tokenize(clips) for blocks, clips in train.items()}
        self.fresh = {blocks: self.tokenize(clips) for blocks, clips in fresh.items()}

    def tokenize(self, clips: LatentClips) -> TokenClips:
        """Clips with the ids, positions and masks that this model trains them with."""
        config = self.config
        partition = config.partition(clips.cuts.shape[1], 1)
        return TokenClips.of(
            clips,
            self.text,
            window=config.window,
            frames_per_block=config.model.frames_per_block,
            tokens_per_frame=config.model.tokens_per_frame(*clips.latents.shape[3:]),
            shot_offset=config.shot_offset,
            order=partition.block_order,
        )

    def training_step(self, step: int) -> dict[str, Tensor]:
        phase = current_phase(self.config.phases, self.progress)
        clips, generator = self.sets[phase.length], self.choices(step)
        if self.config.accumulate == 1:
            return {"loss": self.loss(self.velocity, clips, phase.batch, generator)}
        return {"loss": self._learn_in_parts(clips, phase.batch, generator)}

    def _learn_in_parts(self, clips: TokenClips, count: int, generator: Random) -> Tensor:
        """Make the update of a whole batch, one part of it in memory at a time; its loss."""
        parts, made, losses = self.config.accumulate, [], []
        batch, drawn = self._draw(clips, count, generator)
        batch, recycled = self._recycle(batch, drawn, clips)
        with self.update(ONLY) as backward:
            for part in batch.parts(parts):
                one = self._denoise(self.velocity, clips, part)
                loss = self._mean(part.weighted(one.losses)) / parts
                backward(loss)
                losses.append(loss.detach())
                if recycled is not None:
                    made.append((part, one.detached()))
        self._keep_errors(made, drawn, clips, recycled)
        return torch.stack(losses).sum()

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        if self.errors is not None:
            self.errors.settle()  # beside what a GPU still has to do

    @property
    def measured(self) -> tuple[str, ...]:
        return tuple(f"loss_{blocks}_blocks" for blocks in sorted(self.config.lengths))

    def frames_of_step(self) -> int:
        phase = current_phase(self.config.phases, self.progress)
        return phase.batch * self.config.world.first_frame(phase.length)

    def loss(self, model: Model, clips: TokenClips, count: int, generator: Random) -> Tensor:
        """The teacher-forcing loss of ``count`` random clips: of all of them, on every rank."""
        return self._mean(self.losses(model, clips, count, generator))

    def _mean(self, losses: Tensor) -> Tensor:
        """The mean over the frames of all ranks."""
        if self.ranks.world.size == 1:
            return losses.mean()
        return masked_mean(losses, None, self.ranks.world)

    def losses(self, model: Model, clips: TokenClips, count: int, generator: Random) -> Tensor:
        """The loss of each frame of ``count`` random clips that is this rank's, under its mask.

        Frames that do not count have none, and the others are scaled, so that the mean over all
        ranks is that over what counts.
        """
        batch, drawn = self._draw(clips, count, generator)
        batch, recycled = self._recycle(batch, drawn, clips)
        made = self._denoise(model, clips, batch)
        self._keep_errors([(batch, made)], drawn, clips, recycled)
        return batch.weighted(made.losses)

    def _draw(self, clips: TokenClips, count: int, generator: Random) -> tuple[Batch, Drawn]:
        """Draw ``count`` clips with their noise: this rank's part, and what all ranks know."""
        config, own = self.config, self._own(clips)
        some = clips.draw(count, generator)
        ids = self._drop(clips.ids[some], generator)
        drawn = Drawn(
            timesteps=self.schedule.draw(
                generator,
                batch=count,
                frames=clips.positions.shape[1],
                frames_per_block=config.model.frames_per_block,
            ),
            frames_per_block=config.model.frames_per_block,
            given=draw_given(config.image_to_video, count, generator),
            lengths=None if clips.lengths is None else clips.lengths[some.cpu()],
        )
        free, weights = drawn.free, drawn.weights
        latents = self.ranks.clips(clips.latents[some]).float()
        noise, jitter = self._noise(clips, count), self._jitter(clips, count)
        own_free = None if free is None else own.frames(free)
        batch = Batch(
            some=self.ranks.clips(some),
            ids=own.sp.shard_blocks(self.ranks.clips(ids), 1),
            latents=latents,
            noise=noise,
            timesteps=own.frames(drawn.timesteps if free is None else drawn.timesteps * free),
            positions=own.frames(clips.positions[some]),
            context=latents + (jitter if own_free is None else jitter * over_frames(own_free)),
            weights=None if weights is None else own.frames(weights),
            free=own_free,
        )
        return batch, drawn

    def _recycle(
        self, batch: Batch, drawn: Drawn, clips: TokenClips
    ) -> tuple[Batch, Recycled | None]:
        """In training, a batch with errors of earlier steps in it."""
        if self.errors is None or not self.training:
            return batch, None
        return self.errors.add(batch, drawn, self._own(clips), self.steps_taken)

    def _keep_errors(
        self,
        parts: Sequence[tuple[Batch, TeacherForced]],
        drawn: Drawn,
        clips: TokenClips,
        recycled: Recycled | None,
    ) -> None:
        """In training, keep what a step got wrong."""
        if self.errors is not None and recycled is not None:
            self.errors.learn(parts, drawn, self._own(clips), recycled)

    def _denoise(self, model: Model, clips: TokenClips, batch: Batch) -> TeacherForced:
        """The model's forward pass of a batch, or of a part of one."""
        sp = self.exchange(clips.ids.shape[1], clips.tokens_per_frame)
        return teacher_forced(
            model if sp.group.size == 1 else partial(model, exchange=sp),
            batch.latents,
            self.text(batch.ids.flatten(0, 1)).unflatten(0, batch.ids.shape[:2]),
            noise=batch.noise,
            timesteps=batch.timesteps,
            mask=clips.mask(batch.some),
            schedule=self.schedule,
            positions=batch.positions,
            start=batch.start,
            context=batch.context,
        )

    def _own(self, clips: TokenClips) -> Own:
        """What takes this rank's part out of such clips."""
        sp = self.exchange(clips.ids.shape[1], clips.tokens_per_frame)
        return Own(self.ranks, sp, self.device)

    def exchange(self, blocks: int, tokens_per_frame: int) -> BalancedSP:
        """The exchange of sequences of this length: the same object for each, so that a compiled
        model is traced once a length."""
        key = blocks, tokens_per_frame
        if key not in self._exchanges:
            self._exchanges[key] = self.sp.over(self.config.partition(*key))
        return self._exchanges[key]

    def _noise(self, clips: TokenClips, count: int) -> Tensor:
        """Noise of the batch's latents."""
        shape = [count, *clips.latents.shape[1:]]
        shape[2] = clips.positions.shape[1]  # of the whole clip
        noise = torch.randn(shape, dtype=torch.float32, device=self.device)
        sp = self.exchange(clips.ids.shape[1], clips.tokens_per_frame)
        return sp.shard(self.ranks.clips(noise), 2)

    def _jitter(self, clips: TokenClips, count: int) -> Tensor:
        """A little noise for the clean context, of another strength in each clip."""
        strength = torch.rand(count, 1, 1, 1, 1, dtype=torch.float32, device=self.device)
        return self.config.context_jitter * self.ranks.clips(strength) * self._noise(clips, count)

    def _drop(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Some clips lose their prompts (for guidance), some words become unknown."""
        clips = torch.rand(len(ids), 1, generator=generator, dtype=torch.float32, device="cpu")
        words = torch.rand(ids.shape, generator=generator, dtype=torch.float32, device="cpu")
        lost = (clips < self.config.prompt_dropout)[..., None].to(ids.device)
        empty = self.text.tokenize([""])[0].to(ids.device)
        if isinstance(self.text, PromptTable):  # whole prompts have numbers, words have none
            return torch.where(lost, empty, ids)
        unread = (words < self.config.word_dropout).to(ids.device)
        unread &= ids > self.text.tokenizer.END
        return torch.where(lost, empty, torch.where(unread, self.text.tokenizer.UNKNOWN, ids))

    def validate(self) -> dict[str, float]:
        """The loss on fresh clips, by their number of blocks; writes the model on the way."""
        self.export(result_of(self.config), self.steps_taken)
        generator = torch.Generator().manual_seed(self.seed)
        torch.manual_seed(self.seed)
        count = self.config.validation_clips
        return {
            f"loss_{blocks}_blocks": float(self.loss(self.model, clips, count, generator))
            for blocks, clips in self.fresh.items()
        }

    def samples(self) -> dict[str, Video]:
        """A video of each sample prompt, from the pipeline that users have; by the first rank."""
        config = self.config
        exact = RuntimeOptions(device=str(self.device), weights="fp32", kv_cache="fp32")
        pipeline = self.pipeline(exact)
        if pipeline is None:
            return {}
        return {
            f"prompt_{number}": pipeline(prompt, seconds=config.sample_seconds, seed=number)
            for number, prompt in enumerate(config.sample_prompts)
        }

    def pipeline(self, options: RuntimeOptions) -> LongLivePipeline | None:
        """A copy of the model as users have it; None on all ranks but the first.

        All ranks must call it.
        """
        model, text = self.whole_model(), self.ranks.whole(self.text)
        if not self.ranks.first:
            return None
        return pipeline_of(self.config, model, text, options)

    def whole_model(self) -> dict[str, Tensor]:
        """The transformer's weights as a model folder has them; nothing on ranks after the first.

        Those of a transformer with adapters, as they are. All ranks must call it.
        """
        return self.ranks.whole(self.model)

    def export(self, folder: Path, step: int) -> None:
        """Write a folder with the result: a model, or adapters.

        All ranks must call it, and the first one writes.
        """
        model, text = self.whole_model(), self.ranks.whole(self.text)
        if self.ranks.first:
            trained = {"recipe": type(self.config).__name__, "step": step, "code": code_version()}
            write_results(folder, self.config, model, text, trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.errors is not None:
            checkpoint[KEY] = self.errors.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.errors is not None and KEY in checkpoint:
            self.errors.load_state_dict(checkpoint[KEY])


def run(config: TrainAR, *, resume: str | None = None) -> Path:
    """Train, and write the model folder ``<output>/model``."""
    check(config, resume=resume)
    module = TrainARModule(config)
    fit(module, config.run, config, resume=resume, parallel=config.parallel)
    return write(module, module.steps_taken)


def export(config: TrainAR, *, resume: str) -> Path:
    """Write the model folder ``<output>/model`` of a checkpoint."""
    check(config, resume=resume)
    module = TrainARModule(replace(config, parallel=Parallel()))
    module.configure_model()
    return write(module, load_average(module, resume))


def write(module: TrainARModule, step: int) -> Path:
    """Write the result as it is after ``step`` steps, a model or adapters; its folder."""
    folder = result_of(module.config)
    module.export(folder, step)
    return folder
