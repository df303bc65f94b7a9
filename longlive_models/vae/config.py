"""VAEConfig: sizes and latent statistics of a Wan2.2 VAE. Integers and tuples only: no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from longlive_core.checks import hold_wholes, real, shown, whole
from longlive_models.schema import build

MOST = 2**16
"""The most channels of a layer: one convolution of so many has over 200 GB."""

MOST_BLOCKS, MOST_STAGES = 2**7, 12
"""The most stages, and the most residual blocks of a stage: 12 stages fold 4,096 pixels into
one."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The sizes of a Wan2.2 VAE; all other sizes and strides follow from these fields.

    ``dim_mult`` has a multiplier for each stage. Every stage but the last halves space;
    ``temporal_downsample`` says for each of those stages whether it halves time as well, in the
    encoder's order. The decoder walks the stages backwards, with one residual block more in each.
    ``latent_mean`` and ``latent_std`` normalize the latents, channel by channel.
    """

    encoder_dim: int
    decoder_dim: int
    latent_channels: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temporal_downsample: tuple[bool, ...]
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    patch_size: int = 2

    def __post_init__(self) -> None:
        sizes = "encoder_dim decoder_dim latent_channels num_res_blocks patch_size"
        why = "a layer without channels or blocks computes nothing. Pass a positive number."
        hold_wholes(self, sizes, at_least=1, at_most=MOST, why=why)
        hold_wholes(self, "num_res_blocks", at_least=1, at_most=MOST_BLOCKS, why=why)
        if not 1 <= len(self.dim_mult) <= MOST_STAGES:
            raise ValueError(
                f"VAEConfig.dim_mult has one number a stage, got {len(self.dim_mult)} stages: each "
                f"but the last halves space, so {MOST_STAGES} are the most. Wan2.2's has 4."
            )
        for number in self.dim_mult:
            whole("VAEConfig.dim_mult", number, at_least=1, at_most=MOST, why="it multiplies dims.")
        for halved in self.temporal_downsample:
            if not isinstance(halved, bool):
                raise ValueError(
                    f"VAEConfig.temporal_downsample is True or False for each stage, got "
                    f"{shown(halved)}: a stage halves time or does not."
                )
        for statistic in (*self.latent_mean, *self.latent_std):
            real(
                "a latent statistic of VAEConfig", statistic, why="latents are normalized with it."
            )
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"VAEConfig.temporal_downsample needs one entry for every stage but the last, got "
                f"{len(self.temporal_downsample)} entries for {len(self.dim_mult)} stages: the "
                f"last stage changes neither space nor time. Pass {len(self.dim_mult) - 1} entries."
            )
        for name in ("latent_mean", "latent_std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(
                    f"VAEConfig.{name} needs one number a latent channel, got "
                    f"{len(getattr(self, name))} for {self.latent_channels} channels: each channel "
                    f"is normalized by itself. Pass {self.latent_channels} numbers."
                )
        if min(self.latent_std) <= 0:
            raise ValueError(
                f"VAEConfig.latent_std must be positive, got {min(self.latent_std)}: latents are "
                f"divided by it. Use 1.0 for a channel without statistics."
            )
        if max(*self.encoder_dims, *self.decoder_dims) > MOST:
            raise ValueError(
                f"VAEConfig.dim_mult {self.dim_mult} makes layers of more than {MOST} channels "
                f"from {self.encoder_dim} and {self.decoder_dim}: one convolution of so many has "
                f"over 200 GB. Take the sizes from the model's files."
            )
        self._check_shortcuts()

    def _check_shortcuts(self) -> None:
        """Raise ValueError if widths do not fit the shortcuts, which have no parameters."""
        folds = [8 if halved else 4 for halved in self.temporal_downsample]
        down = zip(self.encoder_dims[:-1], self.encoder_dims[1:], [*folds, 1], strict=True)
        up = zip(self.decoder_dims[:-2], self.decoder_dims[1:-1], reversed(folds), strict=True)
        problems = [
            f"encoder {before} -> {after}" for before, after, fold in down if before * fold % after
        ]
        problems += [
            f"decoder {before} -> {after}"
            for before, after, fold in up
            if after % before and before not in (after * 2, after * 4, after * fold)
        ]
        if problems:
            raise ValueError(
                f"VAEConfig.dim_mult {self.dim_mult} has stages without a shortcut: "
                f"{', '.join(problems)} channels. A shortcut averages or repeats whole channels, "
                f"and a last stage folds nothing. Use powers of two, the last two of them equal."
            )

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """Channels before the first encoder stage, then after each stage."""
        return tuple(self.encoder_dim * m for m in (1, *self.dim_mult))

    @property
    def decoder_dims(self) -> tuple[int, ...]:
        """Channels before the first decoder stage, then after each stage."""
        return tuple(self.decoder_dim * m for m in (self.dim_mult[-1], *reversed(self.dim_mult)))

    @property
    def patch_channels(self) -> int:
        """Channels of a video after its pixels are folded into patches."""
        return 3 * self.patch_size**2

    @property
    def spatial_stride(self) -> int:
        """Pixels along one side of a latent position."""
        return self.patch_size * 2 ** len(self.temporal_downsample)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames in a latent frame, the first one excepted (it holds one)."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def encoder_history(self) -> int:
        """How many latent frames before it a latent frame's encoding depends on (28 for Wan2.2)."""
        blocks = 4 * self.num_res_blocks  # two convolutions a block, two earlier frames each
        first = -(2 + 8) - blocks  # head, middle, last stage; in frames, latent 0 counting as 0
        for halved in reversed(self.temporal_downsample):
            first = 2 * first - 2 - blocks if halved else first - blocks
        return (2 - first) // self.temporal_stride

    @property
    def decoder_history(self) -> int:
        """How many latent frames before it a latent frame's pixels depend on (38 for Wan2.2)."""
        blocks = 4 * (self.num_res_blocks + 1)
        first = -2 - blocks  # head and last stage
        for doubled in self.temporal_downsample:
            first = first // 2 - 2 - blocks if doubled else first - blocks
        return -(first - (8 + 2))

    def pixel_frames(self, latent_frames: int) -> int:
        """The number of pixel frames of a whole video of ``latent_frames`` latent frames."""
        return 1 + self.temporal_stride * (latent_frames - 1)

    def latent_frames(self, pixel_frames: int) -> int:
        """The number of latent frames of a video; frames after the last full group do not count."""
        return 1 + (pixel_frames - 1) // self.temporal_stride

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; ``from_dict`` reads them back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VAEConfig":
        """A config from JSON values. Raises ValueError for unknown and for missing keys."""
        return build(cls, values, "")


# fmt: off
WAN22_VAE = VAEConfig(
    encoder_dim=160,
    decoder_dim=256,
    latent_channels=48,
    dim_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    temporal_downsample=(False, True, True),
    latent_mean=(
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
        -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
        -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
        -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
        -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
        0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
    ),
    latent_std=(
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
        0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
        0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
        0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
        0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    ),
)
# fmt: on
"""The VAE of Wan2.2-TI2V-5B: 48 channels, 4 x 16 x 16."""

POCKET_VAE = VAEConfig(
    encoder_dim=32,
    decoder_dim=48,
    latent_channels=24,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    latent_mean=(0.0,) * 24,
    latent_std=(1.0,) * 24,
)
"""A small VAE of the same structure: 24 channels, 4 x 8 x 8. Statistics come with the weights."""
