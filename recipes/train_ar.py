"""Teacher-forced autoregressive training of the pocket model on moving shapes.

Clips are drawn and encoded once; every step denoises all blocks of a batch of clips at once, under
the mask that the cache's window gives. Short clips come first, then clips longer than the window.
The text encoder trains along. Reproduces the AR stage of LongLive-2.0 (arXiv 2605.18739).

Command:  longlive train ar_pocket          Measured: see recipes/README.md
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_core.nvfp4 import NVFP4TrainingLinear, convert_linears
from longlive_core.sequence_parallel import BalancedSP, masked_mean
from longlive_models.checkpoints.folder import fill, read_config, save_part, unfilled
from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives import frame_losses
from longlive_models.pipeline import LongLivePipeline
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.settings import ModelSpec
from longlive_models.stream import Video
from longlive_models.text import PocketTextEncoder
from longlive_models.vae import VAEConfig
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.train_ar import TrainAR as TrainAR
from longlive_recipes.configs.train_ar import ar_pocket, ar_tiny
from longlive_recipes.data.cache_index import read_index
from longlive_recipes.data.splits import split_clips
from longlive_recipes.data.training_clips import load_clips
from longlive_recipes.moving_shapes.dataset import LatentClips, TokenClips
from longlive_recipes.moving_shapes.latent_cache import FRESH, ClipSet, prepare_clips, trained_vae
from longlive_recipes.run_record import code_version
from longlive_recipes.training.ar_checks import (
    check_clips,
    check_data,
    check_start,
    memory_needed,
)
from longlive_recipes.training.export import check_text, find_vae, pack_model
from longlive_recipes.training.fit import check_machine, check_run, fit, load_average
from longlive_recipes.training.module import TrainingModule, maybe_compile, start_from
from longlive_recipes.training.parallel import Parallel, Ranks, shard
from longlive_recipes.training.run_checks import check_folder, check_memory, check_not_replaced
from longlive_recipes.training.schedule import current_phase

PRESETS = {"ar_pocket": ar_pocket, "ar_tiny": ar_tiny}

Model = Callable[..., Tensor]
Random = torch.Generator


class TrainARModule(TrainingModule):
    """One transformer and its text encoder, on clips that are encoded before the first step.

    Every rank draws a batch alike, random numbers and all, and keeps its part of it.
    """

    model: WanTransformer
    text: PocketTextEncoder
    velocity: Model

    def __init__(self, config: TrainAR, ranks: Ranks | None = None) -> None:
        super().__init__(config.budget, config.plan, config.seed)
        self.config = config
        self.ranks = Ranks() if ranks is None else ranks
        self.schedule = FlowSchedule(shift=config.shift)
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
            self.text = PocketTextEncoder(config.text)
        if config.start_from:
            start = Path(config.start_from)
            start_from(self.model, start / "transformer")
            start_from(self.text, start / "text_encoder")
        if config.quantized.quantizes:
            reduce_amax = self.ranks.world.max if config.parallel.ranks > 1 else None
            keep = config.plain.keep(config.model.num_layers)
            convert_linears(self.model, config.quantized, keep=keep, reduce_amax=reduce_amax)
        self.distribute()

    def distribute(self) -> None:
        """Share the weights out over the ranks; one rank alone may compile."""
        if self.config.parallel.ranks > 1:
            shard(self.model, self.model.blocks, self.ranks.world)
            shard(self.text, (), self.ranks.world)
            self.velocity = self.model.__call__  # with hooks; a module would be a part, held twice
        else:
            self.velocity = maybe_compile(self.model.forward, self.config.run.compile)

    def on_fit_start(self) -> None:
        config = self.config
        self.sets, self.fresh = {}, {}
        if config.data is not None:
            self._read_data(Path(config.data))
            return
        for one in config.sets:
            few = replace(one, clips=config.validation_clips)
            clips = self._prepare(one, config.seed + one.blocks, config.latent_cache)
            fresh = self._prepare(few, config.seed + FRESH + one.blocks, None)
            self.sets[one.blocks] = self.tokenize(clips)
            self.fresh[one.blocks] = self.tokenize(fresh)

    def _read_data(self, cache: Path) -> None:
        """Clips of a cache in place of drawn ones: this rank's frames of each."""
        config, frames = self.config, self.config.model.frames_per_block
        split = split_clips(read_index(cache), config.lengths, config.validation_clips)
        for sets, some in ((self.sets, split.train), (self.fresh, split.fresh)):
            for blocks, clips in some.items():
                whole = load_clips(cache, clips, blocks=blocks, frames_per_block=frames)
                own = self.exchange(blocks, 1).shard(whole.latents, 2).to(self.device).contiguous()
                sets[blocks] = self.tokenize(replace(whole, latents=own))

    def _prepare(self, one: ClipSet, seed: int, cache: str | None) -> LatentClips:
        """Encoded clips, this rank's frames of each."""
        return prepare_clips(
            one,
            seed,
            clip_format=self.config.world,
            vae=self.config.vae,
            cache=cache,
            sp=self.exchange(one.blocks, 1),
            writes=self.ranks.first,
            device=self.device,
        )

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
        clips = self.sets[phase.length]
        return {"loss": self.loss(self.velocity, clips, phase.batch, self.choices(step))}

    @property
    def measured(self) -> tuple[str, ...]:
        return tuple(f"loss_{blocks}_blocks" for blocks in sorted(self.config.lengths))

    def frames_of_step(self) -> int:
        phase = current_phase(self.config.phases, self.progress)
        return phase.batch * self.config.world.first_frame(phase.length)

    def loss(self, model: Model, clips: TokenClips, count: int, generator: Random) -> Tensor:
        """The teacher-forcing loss of ``count`` random clips: of all of them, on every rank."""
        losses = self.losses(model, clips, count, generator)
        if self.ranks.world.size == 1:
            return losses.mean()
        return masked_mean(losses, None, self.ranks.world)

    def losses(self, model: Model, clips: TokenClips, count: int, generator: Random) -> Tensor:
        """The loss of each frame of ``count`` random clips that is this rank's, under its mask."""
        config, ranks = self.config, self.ranks
        sp = self.exchange(clips.ids.shape[1], clips.tokens_per_frame)
        some = clips.draw(count, generator)
        ids = self._drop(clips.ids[some], generator)
        ids = sp.shard_blocks(ranks.clips(ids), 1)
        timesteps = self.schedule.draw(
            generator,
            batch=count,
            frames=clips.positions.shape[1],
            frames_per_block=config.model.frames_per_block,
        )
        latents = ranks.clips(clips.latents[some]).float()
        return frame_losses(
            model if sp.group.size == 1 else partial(model, exchange=sp),
            latents,
            self.text(ids.flatten(0, 1)).unflatten(0, ids.shape[:2]),
            noise=self._noise(clips, count),
            timesteps=sp.shard(ranks.clips(timesteps.to(self.device)), 1),
            mask=clips.mask(ranks.clips(some)),
            schedule=self.schedule,
            positions=sp.shard(ranks.clips(clips.positions[some]), 1),
            context=latents + self._jitter(clips, count),
        )

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
        unread = (words < self.config.word_dropout).to(ids.device)
        empty = self.text.tokenize([""])[0].to(ids.device)
        unread &= ids > self.text.tokenizer.END
        return torch.where(lost, empty, torch.where(unread, self.text.tokenizer.UNKNOWN, ids))

    def validate(self) -> dict[str, float]:
        """The loss on fresh clips, by their number of blocks; writes the model on the way."""
        self.export(Path(self.config.run.output) / "model", self.steps_taken)
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
        config = self.config
        tensors = self.whole_model(), self.ranks.whole(self.text)
        if not self.ranks.first:
            return None
        with unfilled():
            parts = WanTransformer(config.model), PocketTextEncoder(config.text)
        for part, whole in zip(parts, tensors, strict=True):
            fill(part, copy.deepcopy(whole), "the module")  # a pipeline freezes its parts
        return LongLivePipeline(
            parts[0],
            trained_vae(config.vae),
            parts[1],
            settings=config.generation,
            runtime=Runtime.choose(options),
        )

    def whole_model(self) -> dict[str, Tensor]:
        """The transformer's weights as a model folder has them; nothing on ranks after the first.

        All ranks must call it.
        """
        return self.ranks.whole(self.model)

    def export(self, folder: Path, step: int) -> None:
        """Write a model folder: transformer and text encoder in bfloat16, and the VAE.

        All ranks must call it, and the first one writes.
        """
        config = self.config
        tensors = self.whole_model(), self.ranks.whole(self.text)
        if not self.ranks.first:
            return
        parts = folder / "transformer", folder / "text_encoder"
        values = config.model.to_dict(), config.text.to_dict()
        for part, of_part, whole in zip(parts, values, tensors, strict=True):
            save_part(part, of_part, whole, dtype=torch.bfloat16)
        pack_model(
            folder,
            transformer=parts[0],
            text_encoder=parts[1],
            vae=find_vae(config.vae),
            settings=config.generation,
            trained={"recipe": type(config).__name__, "step": step, "code": code_version()},
        )


def check(
    config: TrainAR,
    *,
    resume: str | None = None,
    parts: Callable[[], nn.Module] | None = None,
) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written.

    Args:
        parts: gives the parts that a checkpoint has to fit, without weights, where a recipe has
            others than AR training.
    """
    device = check_machine(config.run, config.parallel)
    vae = VAEConfig.from_dict(read_config(find_vae(config.vae)))
    spec = ModelSpec(transformer=config.model, vae=vae, settings=config.generation)
    check_text(config.model, config.text)
    check_clips(config.world, spec.timing, config.lengths)
    held = check_data(config, spec.timing)
    check_memory(memory_needed(config, spec, held), device)
    check_run(
        config.run,
        config,
        resume=resume,
        steps=config.budget.steps,
        parts=parts or (lambda: unfilled_parts(config)),
    )
    if config.start_from:
        names = {"model": "transformer", "text": "text_encoder"}
        check_start(Path(config.start_from), unfilled_parts(config), names)
    if config.latent_cache:
        check_folder("latent_cache", Path(config.latent_cache))
    check_not_replaced(
        Path(config.run.output) / "model",
        vae=config.vae,
        start_from=config.start_from,
        latent_cache=config.latent_cache,
        data=config.data,
    )
    if config.quantized.quantizes:
        linear = NVFP4TrainingLinear(64, 64, config=config.quantized, device=device)
        linear.receipts()


def unfilled_parts(config: TrainAR) -> nn.ModuleDict:
    """The module's parts, without weights."""
    with unfilled():
        model, text = WanTransformer(config.model), PocketTextEncoder(config.text)
    return nn.ModuleDict({"model": model, "text": text})


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
    """Write the model folder ``<output>/model`` as it is after ``step`` steps; its path."""
    folder = Path(module.config.run.output) / "model"
    module.export(folder, step)
    return folder
