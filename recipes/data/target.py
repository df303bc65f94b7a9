"""What clips are made into: a model's size, rate and blocks, and the VAE that encodes them."""

from dataclasses import dataclass
from pathlib import Path

from longlive_models.checkpoints.folder import fingerprint
from longlive_models.checkpoints.hub import is_published, resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.timing import BlockTiming
from longlive_recipes.configs.prepare_data import PrepareData
from longlive_recipes.data.cache_index import CacheSettings
from longlive_recipes.data.text_features import FrozenText
from longlive_recipes.training.export import find_vae, vae_config


@dataclass(frozen=True, kw_only=True)
class Target:
    """Sizes of the clips, and where the VAE is.

    Attributes:
        blocks: the most of a clip.
        shape: channels, rows and columns of a latent frame.
        text: the text encoder whose features of captions are kept; None where it trains along.
    """

    vae: Path
    height: int
    width: int
    timing: BlockTiming
    blocks: int
    shape: tuple[int, int, int]
    text: FrozenText | None = None

    @property
    def bytes_per_block(self) -> int:
        """Of the cache, in bfloat16."""
        channels, rows, columns = self.shape
        return 2 * self.timing.frames_per_block * channels * rows * columns

    def settings(self) -> CacheSettings:
        """What every clip of a cache depends on; reads the VAE's weights."""
        return CacheSettings(
            height=self.height,
            width=self.width,
            fps=float(self.timing.fps),
            frames_per_block=self.timing.frames_per_block,
            temporal_factor=self.timing.temporal_factor,
            blocks=self.blocks,
            vae=fingerprint(self.vae),
            text=None if self.text is None else fingerprint(self.text.weights),
        )


def find_target(config: PrepareData) -> Target:
    """The sizes of a model with what ``config`` changes of them; reads no weights.

    Raises:
        ValueError: there is no such model, a folder of a VAE without sizes, or a size that the VAE
            does not divide into latents.
    """
    vae = find_vae(config.model)
    sizes = vae_config(vae)
    height, width, fps, frames_per_block = config.height, config.width, config.fps, None
    text = None
    if vae != Path(config.model):
        folder = resolve(config.model)
        spec = read_spec(folder)
        text = FrozenText.of(folder) if is_published(folder) else None
        height = spec.settings.height if height is None else height
        width = spec.settings.width if width is None else width
        fps = spec.settings.fps if fps is None else fps
        frames_per_block = spec.timing.frames_per_block
    if height is None or width is None or fps is None:
        raise ValueError(
            f"{config.model} is the folder of a VAE, which says neither how large frames are nor "
            f"how many there are a second: give height, width and fps (--size, --fps), or name a "
            f"model."
        )
    stride = sizes.spatial_stride
    for name, side in (("height", height), ("width", width)):
        if side % stride:
            raise ValueError(
                f"{name}={side} does not divide into latents of {stride} pixels, as the VAE has "
                f"them. Use {max(1, side // stride) * stride}."
            )
    timing = BlockTiming(fps=fps, temporal_factor=sizes.temporal_stride)
    if frames_per_block is not None:
        timing = BlockTiming(
            fps=fps,
            frames_per_block=frames_per_block,
            temporal_factor=sizes.temporal_stride,
        )
    return Target(
        vae=vae,
        height=height,
        width=width,
        timing=timing,
        blocks=config.blocks,
        shape=(sizes.latent_channels, height // stride, width // stride),
        text=text,
    )
