"""Train the pocket model's VAE on moving shapes.

Single frames first, then short clips; the object counts more than the background. The loss is L1
plus squared error, with a small KL term; there is no adversarial part.

Command:  longlive train vae_pocket          Measured: see recipes/README.md
"""

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path

import torch
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
from longlive_models.vae import VAEConfig, WanVAE
from longlive_recipes.configs.train_vae import (
    POOL_BLOCKS,
    vae_pocket,
    vae_pocket_finetune,
    vae_tiny,
)
from longlive_recipes.configs.train_vae import TrainVAE as TrainVAE
from longlive_recipes.moving_shapes.dataset import FramePool
from longlive_recipes.training.fit import check_machine, check_run, fit, load_average
from longlive_recipes.training.module import (
    TrainingModule,
    maybe_compile,
    start_from,
)
from longlive_recipes.training.run_checks import check_memory, check_not_replaced
from longlive_recipes.training.schedule import current_phase
from longlive_recipes.training.vae_losses import reconstruct, reconstruction_losses
from longlive_recipes.training.vae_memory import frozen_as
from longlive_recipes.training.vae_memory import predict as predict

_log = logging.getLogger(__name__)

DRAWN = 64
"""Clips that are drawn at once."""

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
        frozen_as(config, self.vae)
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
        restore = self.compiled if phase.length > 1 else self.reconstruct
        return reconstruction_losses(self.config, restore, video, coverage)

    @property
    def measured(self) -> tuple[str, ...]:
        return "psnr", "psnr_objects"

    def frames_of_step(self) -> int:
        phase = current_phase(self.config.phases, self.progress)
        return phase.batch * phase.length

    def reconstruct(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The video through latents with noise; their mean and log-variance, both float32."""
        return reconstruct(self.vae, video)

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
