"""Train the pocket model's VAE on moving shapes.

Single frames first, then short clips, then longer ones; the object counts more than the
background. The loss is L1 plus squared error, with a small KL term; there is no adversarial part.

Command:  longlive train vae_pocket          Measured: see recipes/README.md
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_models.folder import load_part, save_part
from longlive_models.vae import POCKET_VAE, VAEConfig, WanVAE
from longlive_recipes.budget import Budget, Phase, current_phase
from longlive_recipes.data import FramePool
from longlive_recipes.moving_shapes import World
from longlive_recipes.training import Optimisation, Run, StepModule, fit, maybe_compile


@dataclass(frozen=True, kw_only=True)
class TrainVAE:
    """Everything that the VAE's training depends on. Phase lengths are in pixel frames."""

    vae: VAEConfig = POCKET_VAE
    world: World = field(default_factory=World)
    pool_clips: int = 3000  # clips of two blocks that windows are cut from
    phases: tuple[Phase, ...] = (
        Phase(length=1, batch=256, until=0.06),
        Phase(length=17, batch=48, until=0.75),
        Phase(length=33, batch=24, until=1.0),
    )
    kl_weight: float = 1e-4
    object_weight: float = 4.0
    validation_clips: int = 64
    start_from: str | None = None  # a folder with the weights to begin with
    budget: Budget = field(default_factory=lambda: Budget(steps=20_000, minutes=9))
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(learning_rate=1e-3, weight_decay=0.0)
    )
    run: Run = field(
        default_factory=lambda: Run(output="runs/vae_pocket", compile=True, benchmark=True)
    )
    seed: int = 0


def vae_pocket() -> TrainVAE:
    """The VAE that ships: one GPU, about twenty minutes."""
    return TrainVAE()


def vae_tiny() -> TrainVAE:
    """A few steps on a CPU, to see that everything runs."""
    return replace(
        vae_pocket(),
        vae=replace(POCKET_VAE, encoder_dim=8, decoder_dim=8),
        world=World(size=32),
        pool_clips=2,
        phases=(Phase(length=1, batch=2, until=0.5), Phase(length=5, batch=2, until=1.0)),
        validation_clips=1,
        budget=Budget(steps=4, warmup_steps=1),
        run=Run(output="runs/vae_tiny", accelerator="cpu", precision="32-true", validate_every=4),
    )


PRESETS = {"vae_pocket": vae_pocket, "vae_tiny": vae_tiny}


class TrainVAEModule(StepModule):
    """Reconstruct windows of clips that are drawn on the device."""

    def __init__(self, config: TrainVAE) -> None:
        super().__init__(config.budget, config.optimisation, config.seed)
        self.config = config
        self.vae = WanVAE(config.vae)
        if config.start_from:
            self.vae.load_state_dict(load_part(Path(config.start_from))[1])
        self.compiled = maybe_compile(self.reconstruct, config.run)

    def on_fit_start(self) -> None:
        if self.device.type == "cuda":
            self.vae.channels_last_()
        config = self.config
        self.pool = FramePool.draw(config.world, config.pool_clips, config.seed, self.device)
        self.fresh = FramePool.draw(
            config.world, config.validation_clips, config.seed + 1, self.device
        )

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        phase = current_phase(self.config.phases, self.progress)
        generator = torch.Generator().manual_seed(self.step_seed(self.global_step, stream=1))
        video, coverage = self.pool.windows(phase.batch, phase.length, generator)
        reconstruct = self.compiled if phase.length > 1 else self.reconstruct
        restored, mean, logvar = reconstruct(video)
        weight = 1 + self.config.object_weight * near_objects(coverage)
        error = (restored.float() - video).abs()
        picture = (weight * (error + error.square())).mean() / weight.mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = picture + self.config.kl_weight * kl
        self.log_dict({"loss": loss, "picture": picture, "kl": kl}, prog_bar=True)
        return loss

    def reconstruct(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.vae.moments(video)
        mean, logvar = mean.float(), logvar.float()
        sample = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.vae.decode(sample), mean, logvar

    def validation_step(self, batch: int, batch_idx: int) -> None:
        with self.average.applied(self):
            scores = export(self.vae, self.fresh, Path(self.config.run.output) / "vae")
        self.log_dict(scores, prog_bar=True, batch_size=1)


@torch.no_grad()
def export(vae: WanVAE, pool: FramePool, folder: Path) -> dict[str, float]:
    """Write the VAE to ``folder`` in bfloat16, with its latent statistics and its scores.

    The weights are rounded first: what is measured is what is written.
    """
    kept = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    for parameter in vae.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))
    scores = measure(vae, pool)
    mean, std = latent_statistics(vae, pool)
    config = replace(vae.config, latent_mean=mean, latent_std=std)
    save_part(folder, config.to_dict(), vae.state_dict(), dtype=torch.bfloat16)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    vae.load_state_dict(kept)
    return scores


@torch.no_grad()
def measure(vae: WanVAE, pool: FramePool, batch: int = 8) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB, over all pixels and over the objects' alone."""
    error = torch.zeros(2, dtype=torch.float64)
    count = torch.zeros(2, dtype=torch.float64)
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


def run(config: TrainVAE, *, resume: str | None = None) -> Path:
    """Train, measure on fresh drawings, and write the model folder ``<output>/vae``."""
    module = TrainVAEModule(config)
    trainer = fit(module, config.run, config, resume=resume)
    device = trainer.strategy.root_device
    fresh = FramePool.draw(config.world, config.validation_clips, config.seed + 2, device)
    folder = Path(config.run.output) / "vae"
    export(module.vae.to(device).eval(), fresh, folder)
    return folder
