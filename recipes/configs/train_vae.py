"""The config of the VAE's training, with its checks and presets."""

from dataclasses import dataclass, field, replace

from longlive_models.vae import POCKET_VAE, VAEConfig
from longlive_recipes.configs.checked import (
    part_field,
    parts_field,
    real_field,
    switch_field,
    text_field,
    whole_field,
)
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.clips import MOST_SIZE, ClipFormat
from longlive_recipes.moving_shapes.latent_cache import MOST_CLIPS
from longlive_recipes.training.module import check_seed
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.schedule import Phase, TrainingSchedule, check_phases

POOL_BLOCKS = 2
"""Blocks of the clips that windows are cut from."""


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
        if self.frozen_encoder:
            refuse_idle(
                self,
                "kl_weight",
                TrainVAE.kl_weight,
                0,
                because="it weighs what the encoder gives, and frozen_encoder leaves that as it is",
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
