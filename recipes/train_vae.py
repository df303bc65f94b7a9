"""Train the pocket model's VAE on moving shapes.

Single frames first, then short clips; the object counts more than the background. The loss is L1
plus squared error, with a small KL term; there is no adversarial part.

Command:  longlive train vae_pocket          Measured: see recipes/README.md
"""

import copy
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longlive_models.checkpoints.folder import (
    fill,
    load_part,
    read_config,
    save_part,
    unfilled,
)
from longlive_models.checkpoints.nvfp4 import decode_state
from longlive_models.stream import Video, to_frames
from longlive_models.vae import POCKET_VAE, VAEConfig, WanVAE
from longlive_recipes.configs.checked import (
    part_field,
    parts_field,
    real_field,
    switch_field,
    text_field,
    whole_field,
)
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.clips import MOST_SIZE, ClipFormat
from longlive_recipes.moving_shapes.dataset import FramePool
from longlive_recipes.moving_shapes.latent_cache import MOST_CLIPS
from longlive_recipes.training.fit import check_machine, check_run, fit, load_average
from longlive_recipes.training.module import (
    TrainingModule,
    check_seed,
    maybe_compile,
    start_from,
)
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.run_checks import check_memory, check_not_replaced
from longlive_recipes.training.schedule import Phase, TrainingSchedule, check_phases, current_phase

_log = logging.getLogger(__name__)

POOL_BLOCKS = 2
"""Blocks of the clips that windows are cut from."""
DRAWN = 64
"""Clips that are drawn at once."""


@dataclass(frozen=True, kw_only=True)
class VAEPhase(Phase):
    """A part of the VAE's training: windows of ``length`` pixel frames.

    Attributes:
        crop: pixels on a side of the squares that are cut out near the objects, which is where the
            error is; None trains on whole pictures.
    """

    crop: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None:
            whole_field(
                self,
                "crop",
                at_least=1,
                at_most=MOST_SIZE,
                why="it is the side of a square that is cut out of the pictures. Leave it out to "
                "train on whole ones.",
            )


@dataclass(frozen=True, kw_only=True)
class TrainVAE:
    """Everything that the VAE's training depends on."""

    vae: VAEConfig = POCKET_VAE
    world: ClipFormat = field(default_factory=ClipFormat)
    pool_clips: int = 3000  # clips of two blocks that windows are cut from
    phases: tuple[VAEPhase, ...] = (
        VAEPhase(length=1, batch=256, until=0.1),
        VAEPhase(length=17, batch=160, until=0.75, crop=64),
        VAEPhase(length=17, batch=48, until=1.0),
    )
    kl_weight: float = 1e-4
    object_weight: float = 4.0  # of pixels near an object, beside the 1 of all pixels
    squared_weight: float = 8.0  # of the squared error, beside the 1 of the absolute one
    validation_clips: int = 64
    sample_clips: int = 4  # of the validation clips, shown beside their reconstructions
    start_from: str | None = None  # a folder with the weights to begin with
    frozen_encoder: bool = False  # train the decoder alone: latents stay those of start_from
    budget: TrainingSchedule = field(
        default_factory=lambda: TrainingSchedule(steps=20_000, minutes=6)
    )
    optimization: Optimization = field(
        default_factory=lambda: Optimization(learning_rate=1e-3, weight_decay=0.0)
    )
    run: Run = field(
        default_factory=lambda: Run(
            output="runs/vae_pocket", compile=True, benchmark=True, validate_every=700
        )
    )
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("vae", VAEConfig),
            ("world", ClipFormat),
            ("budget", TrainingSchedule),
            ("optimization", Optimization),
            ("run", Run),
        ):
            part_field(self, name, kind)
        parts_field(self, "phases", VAEPhase)
        check_phases(self.phases)
        for name, least in (("pool_clips", 1), ("validation_clips", 1), ("sample_clips", 0)):
            whole_field(
                self,
                name,
                at_least=least,
                at_most=MOST_CLIPS,
                why="it is a number of clips, all of which are held in memory. Use 64, say.",
            )
        for name in ("kl_weight", "object_weight", "squared_weight"):
            real_field(
                self,
                name,
                at_least=0,
                why="it is the weight of a part of the loss, 0 or more. Use the default.",
            )
        text_field(self, "start_from", optional=True)
        switch_field(self, "frozen_encoder")
        if self.frozen_encoder and self.start_from is None:
            raise ValueError(
                "frozen_encoder=True leaves an encoder as it is, and without start_from there is "
                "none but random weights. Name the folder of a VAE as start_from."
            )
        check_seed(self)
        self._check_lengths()

    def _check_lengths(self) -> None:
        """Windows have to fit into the clips they are cut from, and into the VAE."""
        frames, stride = self.world.first_frame(POOL_BLOCKS), self.vae.temporal_stride
        for place, phase in enumerate(self.phases):
            crop, side = phase.crop, self.vae.spatial_stride
            if crop is not None and (crop > self.world.size or crop % side):
                raise ValueError(
                    f"phases.{place}.crop={crop}: squares are cut from pictures of "
                    f"{self.world.size} pixels, and the VAE takes sides that are multiples of "
                    f"{side}. Use {max(side, min(crop, self.world.size) // side * side)}."
                )
            if phase.length > frames or (phase.length - 1) % stride:
                raise ValueError(
                    f"phases.{place}.length={phase.length}: windows are cut from clips of {frames} "
                    f"frames, and the VAE takes 1 + {stride} n of them. Use "
                    f"{1 + (min(phase.length, frames) - 1) // stride * stride}."
                )
        if (frames - 1) % stride or self.world.size % self.vae.spatial_stride:
            raise ValueError(
                f"clips of {frames} frames of {self.world.size} pixels do not fit the VAE: it "
                f"takes 1 + {stride} n frames, and sides that are multiples of "
                f"{self.vae.spatial_stride}. Change world or vae."
            )


def vae_pocket() -> TrainVAE:
    """The VAE of the pocket model: one GPU, about six minutes."""
    return TrainVAE()


def vae_pocket_finetune() -> TrainVAE:
    """The decoder of the same VAE, trained further beside the transformer: about six minutes."""
    return replace(
        vae_pocket(),
        phases=(VAEPhase(length=17, batch=160, until=1.0, crop=64),),
        start_from="runs/vae_pocket/vae",
        frozen_encoder=True,
        budget=TrainingSchedule(steps=20_000, minutes=6.5, warmup_steps=50),
        optimization=Optimization(
            learning_rate=5e-4,
            weight_decay=0.0,
            muon=("vae.decoder.middle.*.weight", "vae.decoder.upsamples.*.weight"),
            muon_rate=1e-3,
        ),
        run=Run(
            output="runs/vae_pocket_finetune", compile=True, benchmark=True, validate_every=1000
        ),
        seed=5,
    )


def vae_tiny() -> TrainVAE:
    """A few steps on a CPU, to see that everything runs."""
    return replace(
        vae_pocket(),
        vae=replace(POCKET_VAE, encoder_dim=8, decoder_dim=8),
        world=ClipFormat(size=32),
        pool_clips=2,
        phases=(VAEPhase(length=1, batch=2, until=0.5), VAEPhase(length=5, batch=2, until=1.0)),
        validation_clips=1,
        budget=TrainingSchedule(steps=4, warmup_steps=1),
        run=Run(
            output="runs/vae_tiny",
            accelerator="cpu",
            precision="32-true",
            log_every=1,
            validate_every=4,
        ),
    )


PRESETS = {
    "vae_pocket": vae_pocket,
    "vae_pocket_finetune": vae_pocket_finetune,
    "vae_tiny": vae_tiny,
}


class TrainVAEModule(TrainingModule):
    """Reconstruct windows of clips that are drawn on the device."""

    def __init__(self, config: TrainVAE) -> None:
        super().__init__(config.budget, config.optimization, config.seed)
        self.config = config
        with torch.device("cpu"):
            self.vae = WanVAE(config.vae)
        if config.start_from:
            start_from(self.vae, Path(config.start_from))
        if config.frozen_encoder:
            self.vae.encoder.requires_grad_(False)
            self.vae.conv1.requires_grad_(False)
        self.compiled = maybe_compile(self.reconstruct, config.run.compile)

    def on_fit_start(self) -> None:
        if self.device.type == "cuda":
            self.vae.channels_last_()
        config = self.config
        _log.info("drawing %d clips", config.pool_clips + config.validation_clips)
        self.pool = FramePool.draw(config.world, config.pool_clips, config.seed, self.device)
        self.fresh = FramePool.draw(
            config.world, config.validation_clips, config.seed + 1, self.device
        )

    def training_step(self, step: int) -> dict[str, Tensor]:
        phase = current_phase(self.config.phases, self.progress)
        video, coverage = self.pool.windows(
            phase.batch, phase.length, self.choices(step), crop=phase.crop
        )
        reconstruct = self.compiled if phase.length > 1 else self.reconstruct
        restored, mean, logvar = reconstruct(video)
        weight = 1 + self.config.object_weight * near_objects(coverage)
        error = (restored.float() - video).abs()
        squared = self.config.squared_weight * error.square()
        picture = (weight * (error + squared)).mean() / weight.mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {"loss": picture + self.config.kl_weight * kl, "picture": picture, "kl": kl}

    @property
    def measured(self) -> tuple[str, ...]:
        return "psnr", "psnr_objects"

    def frames_of_step(self) -> int:
        phase = current_phase(self.config.phases, self.progress)
        return phase.batch * phase.length

    def reconstruct(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The video through latents with noise; their mean and log-variance, both float32."""
        mean, logvar = self.vae.moments(video)
        mean, logvar = mean.float(), logvar.float()
        sample = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.vae.decode(self.vae.normalize(sample)), mean, logvar

    def validate(self) -> dict[str, float]:
        return self.write(self.fresh)

    def write(self, pool: FramePool) -> dict[str, float]:
        """Write the VAE to ``<output>/vae``, with its scores on a pool; returns them."""
        config, known = self.config, None
        if config.frozen_encoder and config.start_from:
            known = VAEConfig.from_dict(read_config(Path(config.start_from)))
        return write_vae(self.vae, pool, Path(config.run.output) / "vae", statistics=known)

    def samples(self) -> dict[str, Video]:
        """Clips on the left, their reconstructions on the right."""
        config = self.config
        pairs = (
            torch.cat((video, self.vae.decode(self.vae.encode(video))), -1)
            for video, _ in self.fresh.first(config.sample_clips).batches(1)
        )
        return {
            f"clip_{number}": Video(to_frames(pair[0]).cpu(), config.world.fps)
            for number, pair in enumerate(pairs)
        }


@torch.no_grad()
def write_vae(
    vae: WanVAE, pool: FramePool, folder: Path, statistics: VAEConfig | None = None
) -> dict[str, float]:
    """Write the VAE to ``folder`` in bfloat16, with its latent statistics and its scores.

    The weights are rounded first: what is measured is what is written. Latent statistics are
    those of another config, where one is given, and are measured on the pool otherwise.
    """
    rounded = copy.deepcopy(vae)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))
    scores = measure(rounded, pool)
    if statistics is None:
        mean, std = latent_statistics(rounded, pool)
    else:
        mean, std = statistics.latent_mean, statistics.latent_std
    config = replace(vae.config, latent_mean=mean, latent_std=std)
    save_part(folder, config.to_dict(), rounded.state_dict(), dtype=torch.bfloat16)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


@torch.no_grad()
def measure(vae: WanVAE, pool: FramePool, batch: int = 8) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB, over all pixels and over the objects' alone."""
    error = torch.zeros(2, dtype=torch.float64, device="cpu")
    count = torch.zeros(2, dtype=torch.float64, device="cpu")
    for video, coverage in pool.batches(batch):
        mean, _ = vae.moments(video)
        restored = vae.decode(vae.normalize(mean)).float().clamp(-1, 1)
        squared = (restored - video).square().mean(1, keepdim=True) / 4  # as of values in [0, 1]
        inside = (coverage > 0).float()
        error += torch.stack((squared.sum(), (squared * inside).sum())).double().cpu()
        count += torch.stack((torch.ones_like(squared).sum(), inside.sum())).double().cpu()
    whole, objects = (-10 * (error / count).log10()).tolist()
    return {"psnr": whole, "psnr_objects": objects}


@torch.no_grad()
def latent_statistics(
    vae: WanVAE, pool: FramePool, batch: int = 8
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each latent channel over a pool."""
    means = [vae.moments(video)[0].float().cpu() for video, _ in pool.batches(batch)]
    values = torch.cat(means).transpose(0, 1).flatten(1).double()
    mean, std = values.mean(1).tolist(), values.std(1).tolist()
    return tuple(round(v, 5) for v in mean), tuple(round(v, 5) for v in std)


def near_objects(coverage: Tensor) -> Tensor:
    """1 where an object or its edge lies within two pixels, else 0; shape as ``coverage``."""
    return F.max_pool3d((coverage > 0).float(), (1, 5, 5), stride=1, padding=(0, 2, 2))


def check(config: TrainVAE, *, resume: str | None = None) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written."""
    device = check_machine(config.run)
    check_memory(memory_needed(config), device)
    check_run(
        config.run,
        config,
        resume=resume,
        steps=config.budget.steps,
        parts=lambda: _parts(config),
    )
    if config.start_from:
        _, tensors = load_part(Path(config.start_from))
        fill(_parts(config)["vae"], decode_state(tensors, torch.float32), config.start_from)
    check_not_replaced(Path(config.run.output) / "vae", start_from=config.start_from)


def _parts(config: TrainVAE) -> nn.ModuleDict:
    """The module's parts, without weights."""
    with unfilled():
        return nn.ModuleDict({"vae": WanVAE(config.vae)})


def memory_needed(config: TrainVAE) -> dict[str, float]:
    """Bytes that the device holds at one time at the very least, by what takes them."""
    plane = config.world.size**2
    frames = config.world.first_frame(POOL_BLOCKS)
    windows = max(
        phase.batch * phase.length * (phase.crop or config.world.size) ** 2
        for phase in config.phases
    )
    return {
        "clips (pool_clips, validation_clips)": 4.0
        * (config.pool_clips + config.validation_clips)
        * frames
        * plane,
        "clips while they are drawn (world.size)": 16.0
        * min(DRAWN, max(config.pool_clips, config.validation_clips))
        * frames
        * plane,
        "windows of a step (phases.N.batch)": 16.0 * windows,
    }


def run(config: TrainVAE, *, resume: str | None = None) -> Path:
    """Train, measure on fresh drawings, and write the model folder ``<output>/vae``."""
    check(config, resume=resume)
    module = TrainVAEModule(config)
    trainer = fit(module, config.run, config, resume=resume)
    return _write(module, trainer.strategy.root_device)


def export(config: TrainVAE, *, resume: str) -> Path:
    """Measure and write the model folder ``<output>/vae`` of a checkpoint."""
    check(config, resume=resume)
    module = TrainVAEModule(config)
    load_average(module, resume)
    return _write(module, torch.device("cpu"))


def _write(module: TrainVAEModule, device: torch.device) -> Path:
    config = module.config
    fresh = FramePool.draw(config.world, config.validation_clips, config.seed + 2, device)
    module.vae.to(device).eval()
    module.write(fresh)
    return Path(config.run.output) / "vae"
