"""What the training of a light decoder depends on: its config, its checks, the presets' values."""

from dataclasses import dataclass, field, replace

from longlive_recipes.configs.checked import part_field, real_field, text_field, whole_field
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.latent_cache import MOST_BLOCKS, MOST_CLIPS
from longlive_recipes.training.module import check_seed
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.schedule import TrainingSchedule

MOST_CHANNELS = 1 << 16
MOST_LATENTS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class DistillVAE:
    """Everything that a light decoder depends on.

    A clip's latents are decoded in pieces of ``piece`` frames, by the full decoder and by the light
    one, each with its own state; a step learns from one piece of each clip.
    """

    vae: str = "pocket"  # the full VAE: a folder that train_vae wrote, or a model's name
    decoder_dim: int | None = None  # of the light decoder; half of the full one's unless given
    world: ClipFormat = field(default_factory=ClipFormat)
    data: str | None = None  # a cache of one's own clips, in place of drawn ones
    blocks: int = 2  # of each clip
    frames_per_block: int = 8  # latent frames
    clips: int = 2_000  # that are drawn; of a cache, all are taken
    piece: int = 4  # latent frames that are decoded at once
    batch: int = 32
    jitter: float = 0.05  # most noise in the latents, as generated ones differ from encoded ones
    validation_clips: int = 64  # never trained on
    sample_clips: int = 4  # of the validation clips, decoded in full on the left
    budget: TrainingSchedule = field(
        default_factory=lambda: TrainingSchedule(steps=20_000, minutes=4, warmup_steps=100)
    )
    optimization: Optimization = field(
        default_factory=lambda: Optimization(
            learning_rate=1e-3,
            weight_decay=0.0,
            muon=("light.decoder.middle.*.weight", "light.decoder.upsamples.*.weight"),
            muon_rate=2e-3,
        )
    )
    run: Run = field(
        default_factory=lambda: Run(
            output="runs/vae_light_pocket", benchmark=True, validate_every=500
        )
    )
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("world", ClipFormat),
            ("budget", TrainingSchedule),
            ("optimization", Optimization),
            ("run", Run),
        ):
            part_field(self, name, kind)
        text_field(self, "vae")
        text_field(self, "data", optional=True)
        if self.decoder_dim is not None:
            why = "it is narrower than the full decoder. Leave it out for half of that."
            whole_field(self, "decoder_dim", at_least=1, at_most=MOST_CHANNELS, why=why)
        for name, least, most in (
            ("clips", 1, MOST_CLIPS),
            ("validation_clips", 1, MOST_CLIPS),
            ("sample_clips", 0, MOST_CLIPS),
            ("batch", 1, MOST_CLIPS),
        ):
            why = "it is a number of clips, all of which are held in memory. Use 32, say."
            whole_field(self, name, at_least=least, at_most=most, why=why)
        why = f"clips have {MOST_BLOCKS} blocks at most. Use 2, say."
        whole_field(self, "blocks", at_least=1, at_most=MOST_BLOCKS, why=why)
        why = "a clip is made of so many latent frames. Use 8, say."
        whole_field(self, "frames_per_block", at_least=1, at_most=MOST_LATENTS, why=why)
        why = f"a clip of {self.latents} latent frames is decoded so many at once. Use 4, say."
        whole_field(self, "piece", at_least=1, at_most=self.latents, why=why)
        why = "it is a share of what latents vary by. Use 0.05, say, or 0 for none."
        real_field(self, "jitter", at_least=0, at_most=1, why=why)
        check_seed(self)
        if self.data is not None:
            for name, usual in (("clips", DistillVAE.clips), ("world", ClipFormat())):
                refuse_idle(
                    self,
                    name,
                    usual,
                    because=f"clips are those of the cache {self.data}, all of them",
                )
        if self.latents % self.piece:
            raise ValueError(
                f"DistillVAE.piece divides a clip of {self.latents} latent frames, got "
                f"{self.piece}: the last piece would be shorter. Use {self.frames_per_block}."
            )

    @property
    def latents(self) -> int:
        """Latent frames of a clip."""
        return self.blocks * self.frames_per_block


def vae_light_pocket() -> DistillVAE:
    """A light decoder for the pocket model: one GPU, about five minutes."""
    return DistillVAE()


def vae_light_5b() -> DistillVAE:
    """A light decoder for LongLive-2.0-5B at 704x1280, from a cache of one's own clips."""
    return replace(
        vae_light_pocket(),
        vae="models/LongLive-2.0-5B/vae",
        data="data/clips_704x1280",
        piece=1,
        batch=1,
        validation_clips=4,
        sample_clips=1,
        budget=TrainingSchedule(steps=20_000, warmup_steps=200),
        optimization=Optimization(learning_rate=2e-4, weight_decay=0.0),
        run=Run(output="runs/vae_light_5b", benchmark=True, validate_every=1000),
    )


def vae_light_tiny() -> DistillVAE:
    """A few steps on a CPU, after those of vae_tiny."""
    return replace(
        vae_light_pocket(),
        vae="runs/vae_tiny/vae",
        world=ClipFormat(size=32),
        blocks=1,
        clips=3,
        batch=2,
        validation_clips=1,
        sample_clips=1,
        budget=TrainingSchedule(steps=4, warmup_steps=1),
        run=Run(
            output="runs/vae_light_tiny",
            accelerator="cpu",
            precision="32-true",
            log_every=1,
            validate_every=4,
        ),
    )
