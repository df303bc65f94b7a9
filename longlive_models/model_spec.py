"""ModelSpec: what is known of a model before its weights are read."""

from dataclasses import dataclass

from longlive_core.kv_cache import CacheLayout
from longlive_models.settings import GenerationSettings
from longlive_models.shots import BlockTiming
from longlive_models.vae import VAEConfig
from longlive_models.wan import WanConfig


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The sizes of a model's parts and how it is meant to be run; they fit each other.

    Raises ValueError where they do not.
    """

    transformer: WanConfig
    vae: VAEConfig
    settings: GenerationSettings

    def __post_init__(self) -> None:
        wan, vae, settings = self.transformer, self.vae, self.settings
        channels = {wan.in_channels, wan.out_channels, vae.latent_channels}
        if len(channels) > 1:
            raise ValueError(
                f"the transformer takes {wan.in_channels} latent channels and gives "
                f"{wan.out_channels}, the VAE has {vae.latent_channels}: they are parts of "
                f"different models. Take both from one training run."
            )
        sides = zip(
            ("height", "width"),
            (settings.height, settings.width),
            wan.patch_size[1:],
            strict=True,
        )
        for name, pixels, patch in sides:
            step = vae.spatial_stride * patch
            if pixels % step:
                raise ValueError(
                    f"{name}={pixels} pixels does not divide into tokens of {step}: the VAE has "
                    f"latents of {vae.spatial_stride} pixels, the transformer patches of {patch} "
                    f"latents. Use {max(pixels // step, 1) * step}."
                )

    @property
    def timing(self) -> BlockTiming:
        """How blocks become seconds."""
        return BlockTiming(
            fps=self.settings.fps,
            frames_per_block=self.transformer.frames_per_block,
            temporal_factor=self.vae.temporal_stride,
        )

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        stride = self.vae.spatial_stride
        return self.settings.height // stride, self.settings.width // stride

    def cache_layout(self, samples: int) -> CacheLayout:
        """The pages of a key-value cache for so many samples, guidance branches counted."""
        wan = self.transformer
        return CacheLayout(
            layers=wan.num_layers,
            heads=wan.num_heads,
            head_dim=wan.head_dim,
            tokens_per_page=wan.frames_per_block * wan.tokens_per_frame(*self.latent_size),
            samples=samples,
        )
