"""Teacher-forced autoregressive training of the pocket model on moving shapes.

Clips are drawn and encoded once; every step denoises all blocks of a batch of clips at once, under
the mask that the cache's window gives. Short clips come first, then clips longer than the window.
The text encoder trains along. Reproduces the AR stage of LongLive-2.0 (arXiv 2605.18739).

Command:  longlive train ar_pocket --set vae=FOLDER          Measured: see recipes/README.md
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from longlive_core.attention import TableMask
from longlive_core.kv_cache import Window
from longlive_models.diffusion import FlowSchedule
from longlive_models.folder import load_part, save_part
from longlive_models.objectives import (
    shot_anchors,
    teacher_forcing_loss,
    teacher_forcing_table,
)
from longlive_models.shots import SCENE_CUT_PREFIX
from longlive_models.text import PocketTextConfig, PocketTextEncoder
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import POCKET, WanConfig, WanTransformer
from longlive_recipes.budget import Budget, Phase, current_phase
from longlive_recipes.data import LatentClips, encode_clips
from longlive_recipes.moving_shapes import World, clip, vocabulary
from longlive_recipes.training import Optimisation, Run, StepModule, fit, maybe_compile


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """So many clips of so many blocks."""

    blocks: int
    clips: int


@dataclass(frozen=True, kw_only=True)
class TrainAR:
    """Everything that AR training depends on. Phase lengths are in blocks."""

    model: WanConfig = POCKET
    text: PocketTextConfig = field(default_factory=lambda: PocketTextConfig(vocab=vocabulary()))
    vae: str = "runs/vae_pocket/vae"  # the folder that train_vae wrote
    world: World = field(default_factory=World)
    sets: tuple[ClipSet, ...] = (ClipSet(blocks=2, clips=16_000), ClipSet(blocks=6, clips=4_000))
    phases: tuple[Phase, ...] = (
        Phase(length=2, batch=64, until=0.5),
        Phase(length=6, batch=24, until=1.0),
    )
    window: Window = field(default_factory=Window)
    shot_offset: float = 8.0
    shift: float = 5.0
    prompt_dropout: float = 0.1
    word_dropout: float = 0.02  # words read as unknown, so that a foreign word does little harm
    context_jitter: float = 0.05  # most noise on the clean half, untold: generated pasts have some
    latent_cache: str | None = None  # keep the encoded clips here
    start_from: str | None = None  # a folder with transformer/ and text_encoder/ to begin with
    budget: Budget = field(default_factory=lambda: Budget(steps=40_000, minutes=15))
    optimisation: Optimisation = field(default_factory=Optimisation)
    run: Run = field(default_factory=lambda: Run(output="runs/ar_pocket", compile=True))
    seed: int = 0

    def __post_init__(self) -> None:
        known = {one.blocks for one in self.sets}
        for phase in self.phases:
            if phase.length not in known:
                raise ValueError(
                    f"a phase trains on clips of {phase.length} blocks, but the clip sets have "
                    f"{sorted(known)}: add ClipSet(blocks={phase.length}, ...)."
                )


def ar_pocket() -> TrainAR:
    """The pocket model: one GPU, about half an hour."""
    return TrainAR()


def ar_tiny() -> TrainAR:
    """A few steps on a CPU, to see that everything runs."""
    small = replace(POCKET, dim=48, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16)
    return replace(
        ar_pocket(),
        model=small,
        text=PocketTextConfig(vocab=vocabulary(), dim=16, num_layers=1, num_heads=2, ffn_dim=32),
        world=World(size=32),
        sets=(ClipSet(blocks=2, clips=3), ClipSet(blocks=3, clips=2)),
        phases=(Phase(length=2, batch=2, until=0.5), Phase(length=3, batch=1, until=1.0)),
        budget=Budget(steps=4, warmup_steps=1),
        run=Run(output="runs/ar_tiny", accelerator="cpu", precision="32-true", validate_every=4),
    )


PRESETS = {"ar_pocket": ar_pocket, "ar_tiny": ar_tiny}


class TrainARModule(StepModule):
    """One transformer and its text encoder, on clips that are encoded before the first step."""

    def __init__(self, config: TrainAR) -> None:
        super().__init__(config.budget, config.optimisation, config.seed)
        self.config = config
        self.model = WanTransformer(config.model)
        self.text = PocketTextEncoder(config.text)
        if config.start_from:
            start = Path(config.start_from)
            self.model.load_state_dict(load_part(start / "transformer")[1])
            self.text.load_state_dict(load_part(start / "text_encoder")[1])
        self.velocity = maybe_compile(self.model, config.run)
        self.schedule = FlowSchedule(shift=config.shift)

    def on_fit_start(self) -> None:
        self.sets = {
            one.blocks: TokenClips.of(
                prepare_clips(self.config, one, self.device), self.config, self.text, self.device
            )
            for one in self.config.sets
        }

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        phase = current_phase(self.config.phases, self.progress)
        generator = torch.Generator().manual_seed(self.step_seed(self.global_step, stream=1))
        loss = self.loss(self.sets[phase.length], phase.batch, generator)
        self.log("loss", loss, prog_bar=True)
        return loss

    def loss(self, clips: "TokenClips", count: int, generator: torch.Generator) -> Tensor:
        """The teacher-forcing loss of ``count`` clips that share their cuts."""
        config = self.config
        drawn = clips.draw(count, generator)
        latents = drawn.latents.float()
        blocks = drawn.ids.shape[1]
        text = self.text(self._drop(drawn.ids, generator).flatten(0, 1)).unflatten(0, (-1, blocks))
        timesteps = self.schedule.draw(
            generator,
            batch=count,
            frames=latents.shape[2],
            frames_per_block=config.model.frames_per_block,
        )
        return teacher_forcing_loss(
            self.velocity,
            latents,
            text,
            noise=torch.randn_like(latents),
            timesteps=timesteps.to(self.device),
            mask=drawn.mask,
            schedule=self.schedule,
            positions=drawn.positions,
            context=self._jitter(latents),
        )

    def _jitter(self, latents: Tensor) -> Tensor:
        """The clean half with a little noise, of another strength in each clip."""
        strength = torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
        return latents + self.config.context_jitter * strength * torch.randn_like(latents)

    def _drop(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Some clips lose their prompts (for guidance), some words become unknown."""
        clips = torch.rand(len(ids), 1, generator=generator) < self.config.prompt_dropout
        words = torch.rand(ids.shape, generator=generator) < self.config.word_dropout
        empty = self.text.tokenize([""])[0].to(ids.device)
        known = ids > self.text.tokenizer.END
        ids = torch.where(words.to(ids.device) & known, self.text.tokenizer.UNKNOWN, ids)
        return torch.where(clips[..., None].to(ids.device), empty, ids)

    def validation_step(self, batch: int, batch_idx: int) -> None:
        with self.average.applied(self):
            self.export(Path(self.config.run.output) / "model")
            generator = torch.Generator().manual_seed(self.seed)
            torch.manual_seed(self.seed)
            losses = {
                f"loss_{blocks}_blocks": self.loss(clips, min(8, len(clips)), generator)
                for blocks, clips in self.sets.items()
            }
        self.log_dict(losses, prog_bar=True, batch_size=1)

    def export(self, folder: Path) -> None:
        """Write the transformer and the text encoder in bfloat16, as parts of a model folder."""
        parts = {
            "transformer": (self.config.model.to_dict(), self.model.state_dict()),
            "text_encoder": (self.config.text.to_dict(), self.text.state_dict()),
        }
        for name, (config, tensors) in parts.items():
            save_part(folder / name, config, tensors, dtype=torch.bfloat16)


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Clips of one length, ready for the loss."""

    latents: Tensor
    ids: Tensor
    positions: Tensor
    mask: TableMask


@dataclass(frozen=True, eq=False)
class TokenClips:
    """Encoded clips with what the loss needs to know of each.

    Attributes:
        latents: bfloat16 [clips, channels, frames, height, width].
        ids: [clips, blocks, text_len], the scene-cut prefix included.
        positions: float32 [clips, frames], shot offsets included.
        tables: bool [clips, 2 blocks, 2 blocks], the teacher-forcing mask.
        run: tokens of a block.
    """

    latents: Tensor
    ids: Tensor
    positions: Tensor
    tables: Tensor
    run: int

    @classmethod
    def of(
        cls, clips: LatentClips, config: TrainAR, text: PocketTextEncoder, device: torch.device
    ) -> "TokenClips":
        per_block = config.model.frames_per_block
        blocks = clips.cuts.shape[1]
        anchors = [shot_anchors(blocks, row.nonzero().flatten().tolist()) for row in clips.cuts]
        known = {a: teacher_forcing_table(config.window, a) for a in set(anchors)}
        prompts = [
            SCENE_CUT_PREFIX + caption if cut else caption
            for captions, cuts in zip(clips.captions, clips.cuts.tolist(), strict=True)
            for caption, cut in zip(captions, cuts, strict=True)
        ]
        shots = clips.cuts.cumsum(1).repeat_interleave(per_block, 1)
        frames = torch.arange(blocks * per_block)
        tokens = config.model.tokens_per_frame(*clips.latents.shape[3:])
        return cls(
            latents=clips.latents,
            ids=text.tokenize(prompts).unflatten(0, (len(clips), blocks)).to(device),
            positions=(frames + shots * config.shot_offset).float().to(device),
            tables=torch.stack([known[a] for a in anchors]).to(device),
            run=tokens * per_block,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def draw(self, count: int, generator: torch.Generator) -> ClipBatch:
        """``count`` random clips."""
        some = torch.randint(len(self), (count,), generator=generator).to(self.ids.device)
        mask = TableMask(self.tables[some], self.run)
        if some.device.type == "cuda":
            mask.flex(some.device)  # made here, for a compiled model cannot
        return ClipBatch(self.latents[some], self.ids[some], self.positions[some], mask)


def prepare_clips(config: TrainAR, one: ClipSet, device: torch.device) -> LatentClips:
    """Draw and encode a clip set, or read it from the latent cache."""
    cache = config.latent_cache and Path(config.latent_cache) / f"blocks_{one.blocks}"
    if cache and cache.is_dir():
        return LatentClips.load(cache, device)
    settings, weights = load_part(Path(config.vae))
    vae = WanVAE(VAEConfig.from_dict(settings))
    vae.load_state_dict(weights)
    vae = vae.to(device).eval()
    vae.channels_last_()
    made = [
        clip(config.seed + one.blocks, index, world=config.world, blocks=one.blocks)
        for index in range(one.clips)
    ]
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        clips = encode_clips(vae.encode, made, device=device)
    if cache:
        clips.save(cache)
    return clips


def run(config: TrainAR, *, resume: str | None = None) -> Path:
    """Train, and write ``<output>/model`` with its transformer and text encoder."""
    module = TrainARModule(config)
    fit(module, config.run, config, resume=resume)
    folder = Path(config.run.output) / "model"
    module.export(folder)
    return folder
