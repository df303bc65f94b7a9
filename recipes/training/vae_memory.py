"""The memory that training a VAE, or a light decoder, will take."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from longlive_models.checkpoints.folder import unfilled
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.vae.layers import CausalConv3d
from longlive_recipes.configs.distill_vae import DistillVAE
from longlive_recipes.configs.run import Run
from longlive_recipes.configs.train_vae import POOL_BLOCKS, TrainVAE, VAEPhase
from longlive_recipes.training.adamw import matrices_of
from longlive_recipes.training.memory import (
    FLOAT32,
    LIBRARIES,
    MemoryPlan,
    Rehearsed,
    StepMemory,
    of_parameters,
    of_update,
    rehearse,
)
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.vae_losses import (
    light_losses,
    reconstruct,
    reconstruction_losses,
)

BYTES_OF_A_PIXEL = 4
"""Of a clip in the pool: three colors and the object's coverage."""


def predict(config: TrainVAE) -> MemoryPlan:
    """The memory of the VAE's training, in the phase whose steps have the most pixels.

    Samples and validations come between steps and are not counted; nor is drawing the clips before
    the first step.
    """

    def pixels(phase: VAEPhase) -> int:
        return phase.batch * phase.length * (phase.crop or config.world.size) ** 2

    phase = max(config.phases, key=pixels)
    side = phase.crop or config.world.size
    frames = config.world.first_frame(POOL_BLOCKS)
    clips = config.pool_clips + config.validation_clips
    lasting = {"clips": BYTES_OF_A_PIXEL * clips * frames * config.world.size**2}
    with unfilled():
        vae = frozen_as(config, WanVAE(config.vae))
    words = "compiled" if config.run.compile and phase.length > 1 else "not compiled"
    return _plan(
        nn.ModuleDict({"vae": vae}),
        config.optimization,
        config.run,
        lasting,
        _step(config, phase),
        frames=phase.batch * phase.length,
        about=f"{phase.batch} windows of {phase.length} frames of {side}x{side}, {words}",
    )


def predict_light(
    config: DistillVAE, full: VAEConfig, light: VAEConfig, *, size: tuple[int, int], clips: int
) -> MemoryPlan:
    """The memory of a light decoder's training; samples and validations are not counted.

    Args:
        full, light: the VAEs with the full and the light decoder.
        size: height and width of the clips.
        clips: how many are trained on.
    """
    rows, columns = (side // full.spatial_stride for side in size)
    latent = full.latent_channels * rows * columns
    with unfilled():
        made = WanVAE(light)
        whole = sum(p.numel() for p in WanVAE(full).parameters())
    trained = nn.ModuleDict({"conv2": made.conv2, "decoder": made.decoder})
    rest = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in trained.parameters())
    lasting = {
        "the full VAE, and the light one's encoder": FLOAT32 * (whole + rest),
        "latents": 2 * (clips + config.validation_clips) * config.latents * latent,
    }
    words = "compiled" if config.run.compile else "not compiled"
    return _plan(
        nn.ModuleDict({"light": trained}),
        config.optimization,
        config.run,
        lasting,
        _light_step(config, full, light, (rows, columns)),
        frames=config.batch * config.piece * full.temporal_stride,
        about=f"{config.batch} pieces of {config.piece} latents of {size[0]}x{size[1]}, {words}",
    )


def frozen_as(config: TrainVAE, vae: WanVAE) -> WanVAE:
    """The VAE, whose encoder is frozen where a config says so."""
    if config.frozen_encoder:
        vae.encoder.requires_grad_(False)
        vae.conv1.requires_grad_(False)
    return vae


def _plan(
    parts: nn.Module,
    optimization: Optimization,
    run: Run,
    lasting: Mapping[str, int],
    step: StepMemory,
    *,
    frames: int,
    about: str,
) -> MemoryPlan:
    """The plan of a run on one device; ``parts`` has its parameters by their names."""
    named = dict(parts.named_parameters())
    learned = {name: one for name, one in named.items() if one.requires_grad}
    trained = sum(one.numel() for one in learned.values())
    held = of_parameters(
        trained,
        sum(one.numel() for one in named.values()) - trained,
        averaged=bool(optimization.plan().averages),
        ranks=1,
        bytes_a_state=1 if optimization.states == "8bit" else FLOAT32,
        moved_by_muon=sum(named[name].numel() for name in matrices_of(optimization, learned)),
    )
    gpu = run.accelerator != "cpu"
    fused = gpu and run.precision != "16-mixed" and not optimization.muon
    return MemoryPlan(
        lasting={**held, **lasting, **({"libraries": LIBRARIES} if gpu else {})},
        step=step,
        update=of_update(trained, fused=fused, ranks=1),
        tokens=frames,
        unit="frames",
        about=about,
    )


def _step(config: TrainVAE, phase: VAEPhase) -> StepMemory:
    """A step on windows of a phase."""
    side = phase.crop or config.world.size
    shape = (phase.batch, 3, phase.length, side, side)

    def make(layers: int) -> Rehearsed:
        vae = frozen_as(config, WanVAE(config.vae))

        def inputs() -> tuple[Tensor, ...]:
            return _batch(shape)

        def call(video: Tensor, coverage: Tensor) -> Tensor:
            made = reconstruction_losses(config, partial(reconstruct, vae), video, coverage)
            return made["loss"]

        def pure(weights: Mapping[str, Tensor], video: Tensor) -> Tensor:
            restored: Tensor = torch.func.functional_call(
                _Reconstruct(vae), {f"vae.{name}": one for name, one in weights.items()}, (video,)
            )
            return restored

        def to_compile() -> tuple[Any, tuple[Any, ...]]:
            return pure, (
                {**dict(vae.named_parameters()), **dict(vae.named_buffers())},
                inputs()[0],
            )

        compiled = config.run.compile and phase.length > 1
        return Rehearsed(
            module=vae, call=call, inputs=inputs, compiled=to_compile if compiled else None
        )

    with _whole_convolutions():
        step = rehearse(make, 1, autocast=config.run.precision != "32-true")
    if not (config.run.compile and phase.length > 1):
        return step
    return replace(step, kept=step.kept + _kept_by_losses(config, shape))


def _kept_by_losses(config: TrainVAE, shape: tuple[int, ...]) -> int:
    """What a batch and its losses keep, whose computation is not compiled."""
    clips, _, frames, rows, columns = shape
    stride = config.vae.spatial_stride
    latent_frames = config.vae.latent_frames(frames)
    latent = (
        clips,
        config.vae.latent_channels,
        latent_frames,
        rows // stride,
        columns // stride,
    )

    def make(layers: int) -> Rehearsed:
        restored, mean, logvar = (
            nn.Parameter(torch.zeros(size, dtype=torch.float32, device="cpu"))
            for size in (shape, latent, latent)
        )

        def inputs() -> tuple[Tensor, ...]:
            return _batch(shape)

        def call(video: Tensor, coverage: Tensor) -> Tensor:
            made = reconstruction_losses(
                config, lambda _: (restored, mean, logvar), video, coverage
            )
            return made["loss"]

        module = nn.ParameterList([restored, mean, logvar])
        return Rehearsed(module=module, call=call, inputs=inputs)

    return rehearse(make, 1, autocast=False).kept


def _batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Windows and their coverage."""
    video = torch.zeros(shape, dtype=torch.float32, device="cpu")
    return video, torch.zeros_like(video[:, :1])


class _Reconstruct(nn.Module):
    """The VAE's pass over a video, as a module."""

    def __init__(self, vae: WanVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, video: Tensor) -> Tensor:
        return reconstruct(self.vae, video)[0]


def _light_step(
    config: DistillVAE, full: VAEConfig, light: VAEConfig, latent: tuple[int, int]
) -> StepMemory:
    """A step on the second piece of its clips: later ones take as much."""
    pieces = min(2, config.latents // config.piece)
    shape = (config.batch, full.latent_channels, config.piece, *latent)

    def make(layers: int) -> Rehearsed:
        teacher, student = WanVAE(full).requires_grad_(False), WanVAE(light)
        student.encoder.requires_grad_(False)
        student.conv1.requires_grad_(False)

        def inputs() -> tuple[Tensor, ...]:
            return tuple(
                torch.zeros(shape, dtype=torch.float32, device="cpu") for _ in range(pieces)
            )

        def call(*latents: Tensor) -> Tensor:
            made = light_losses(teacher.decode_block, student.decode_block, list(latents))
            return made["loss"]

        return Rehearsed(module=nn.ModuleList([teacher, student]), call=call, inputs=inputs)

    with _whole_convolutions():
        return rehearse(make, 1, autocast=config.run.precision != "32-true")


@contextmanager
def _whole_convolutions() -> Iterator[None]:
    """Within the block convolutions are one operation each.

    A CPU computes those without gradients in many small ones, which take long to rehearse, on a CPU
    as for a GPU: what they take is less than the pass with gradients does.
    """
    own = CausalConv3d.forward_on_cpu
    CausalConv3d.forward_on_cpu = nn.Conv3d.forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        CausalConv3d.forward_on_cpu = own  # type: ignore[method-assign]
