"""GenerationSettings and ModelSpec: how a model is meant to be run, and the sizes of its parts.

Both are kept in a model folder: the settings in its ``model_index.json``, sizes in its parts'
``config.json``.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from longlive_core.checks import real, shown, whole
from longlive_core.kv_cache import CacheLayout, PageCodec, Window
from longlive_core.memory import require_room
from longlive_models.block_steps import BlockSteps, check_block_steps
from longlive_models.checkpoints.hub import INDEX
from longlive_models.choices import check_guidance, check_sampler
from longlive_models.diffusion import BlockSampler
from longlive_models.diffusion.flow import SHIFT, check_shift
from longlive_models.documents import read_json, to_json
from longlive_models.prompts.storyboard import SHOT_OFFSET, BlockTiming
from longlive_models.schema import build
from longlive_models.timing import check_fps
from longlive_models.vae import VAEConfig
from longlive_models.wan import WanConfig

_ABOVE_ZERO = ("height", "width", "shift", "t_scale")
_WHOLE = ("height", "width")

PART_CLASSES = {
    "transformer": ("longlive_models", "WanTransformer"),
    "vae": ("longlive_models", "WanVAE"),
    "text_encoder": ("longlive_models", "PocketTextEncoder"),
}
"""The library and class of each part, for model folders whose index names none."""

MOST_POSITION = float(1 << 24)
"""The largest offset or scale of positions: they are float32, which is exact for whole numbers up
to here."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """The picture size, frame rate and sampling defaults of a model.

    Attributes:
        height, width: size of a frame in pixels.
        fps: frames a second.
        steps: denoising steps of a block: a number, or numbers by block (``block_steps``).
        sampler: a name of ``choices.SAMPLERS``.
        guidance: at 1 the model runs once a step, above 1 twice.
        negative_prompt: what guidance moves away from.
        shift: moves the sampler's noise levels towards noise.
        window: how many pages a block sees, its own and the sinks included.
        sink, shot_sink: how many of these are the first pages of the video and of the shot.
        shot_offset: latent frames that a cut adds to temporal positions.
        t_scale: multiplies temporal positions.
    """

    height: int
    width: int
    fps: float
    steps: BlockSteps
    sampler: str = "unipc"
    guidance: float = 1.0
    negative_prompt: str = ""
    shift: float = SHIFT
    window: int = 4
    sink: int = 1
    shot_sink: int = 1
    shot_offset: float = SHOT_OFFSET
    t_scale: float = 1.0

    def __post_init__(self) -> None:
        check_sampler(self.sampler)
        values: dict[str, Any] = {"steps": check_block_steps("steps", self.steps)}
        for name in _ABOVE_ZERO:
            why = "else there is no video to make. Use a positive number."
            values[name] = real(name, getattr(self, name), above=0, why=why)
        why = "frames are shown at a rate. Use the one of the clips that the model was trained on."
        values["fps"] = check_fps("fps", self.fps, why=why)
        for name in _WHOLE:
            why = "it is counted. Use a whole number."
            values[name] = whole(name, getattr(self, name), why=why)
        values["guidance"] = check_guidance(self.guidance)
        values["shift"] = check_shift(self.shift)
        why = "it is of temporal positions, float32 numbers that are whole up to 2**24."
        for name in ("t_scale", "shot_offset"):
            number = getattr(self, name)
            values[name] = real(
                name, number, at_least=-MOST_POSITION, at_most=MOST_POSITION, why=why
            )
        for name, value in values.items():  # NumPy's numbers and tensors become Python's
            object.__setattr__(self, name, value)
        self.policy.visible(0)  # a Window refuses numbers that make none

    @property
    def policy(self) -> Window:
        """The policy that says which pages a block sees."""
        return Window(pages=self.window, sink=self.sink, shot_sink=self.shot_sink)

    @property
    def branches(self) -> int:
        """How many samples of the cache a video takes: two under guidance, else one."""
        return 1 if self.guidance == 1 else 2

    @property
    def block_sampler(self) -> BlockSampler:
        """The sampler with its steps and shift, for all blocks."""
        return BlockSampler(name=self.sampler, steps=self.steps, shift=self.shift)

    def override(
        self,
        *,
        sampler: str | None = None,
        steps: BlockSteps | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
    ) -> "GenerationSettings":
        """Return settings with the given values replaced; None keeps a value.

        Raises:
            ValueError: a value is not valid, or a negative prompt is given at guidance 1, which
                would never read it.
        """
        changed = replace(
            self,
            sampler=self.sampler if sampler is None else sampler,
            steps=self.steps if steps is None else check_block_steps("steps", steps),
            guidance=self.guidance if guidance is None else _plain(guidance),
        )
        if negative_prompt is None or negative_prompt == self.negative_prompt:
            return changed
        if not isinstance(negative_prompt, str):
            raise ValueError(
                f"negative_prompt is a text, got {shown(negative_prompt)}: it says what guidance "
                f"moves away from. Put it in quotes."
            )
        if changed.branches == 1:
            raise ValueError(
                f"negative_prompt={shown(negative_prompt)} does nothing at guidance=1, where the "
                f"model never sees it: pass a guidance above 1 too, or leave it out."
            )
        return replace(changed, negative_prompt=negative_prompt)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        steps = self.steps if isinstance(self.steps, int) else list(self.steps)
        return {**asdict(self), "steps": steps}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GenerationSettings":
        """Make settings from what ``to_dict`` gave; ValueError for an unknown or a missing key."""
        return build(cls, values, "")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The sizes of a model's parts, and its settings.

    Raises ValueError if they do not fit each other.
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
        """Conversions between blocks, frames and seconds."""
        return BlockTiming(
            fps=self.settings.fps,
            frames_per_block=self.transformer.frames_per_block,
            temporal_factor=self.vae.temporal_stride,
        )

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        stride = self.vae.spatial_stride
        return self.settings.height // stride, self.settings.width // stride

    def cache_layout(self, samples: int) -> CacheLayout:
        """The layout of a key-value cache with so many samples, branches of guidance counted."""
        wan = self.transformer
        return CacheLayout(
            layers=wan.num_layers,
            heads=wan.num_heads,
            head_dim=wan.head_dim,
            tokens_per_page=wan.frames_per_block * wan.tokens_per_frame(*self.latent_size),
            samples=samples,
        )

    def require_room(
        self,
        codec: PageCodec,
        device: torch.device,
        *,
        samples: int = 1,
        ranks: int = 1,
        windows: bool = False,
    ) -> None:
        """Raise ValueError if the cache or a block's frames need more than a device's whole memory.

        Call it before weights are read.

        Args:
            codec: the codec of the pages.
            samples: how many samples the cache has, both branches of guidance counted.
            ranks: the largest number of ranks that share the heads of a page.
            windows: whether the cache gives windows in E4M3 (``Runtime.reads_windows``).
        """
        layout = self.cache_layout(samples)
        shared = replace(layout, heads=max(1, layout.heads // ranks))
        shared.require_room(codec, self.settings.policy, device, windows)
        height, width = self.settings.height, self.settings.width
        frames = self.timing.frames(1)
        require_room(
            f"the {frames} frames of a block, {width}x{height} pixels in float32,",
            4 * 3 * frames * height * width,
            device,
            why="a block is decoded at once. Take a smaller picture, or fewer frames_per_block.",
        )


def _plain(number: Any) -> Any:
    """A number of NumPy or torch as Python's own, which JSON can hold; other values as they are."""
    typed = hasattr(number, "dtype") and math.prod(number.shape) == 1
    return number.item() if typed else number


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file, with the values of fields that did not exist when it was written."""
    return {"sampler": "unipc", **settings}


def read_settings(folder: Path) -> GenerationSettings:
    """Read the generation settings in a model folder's index.

    Raises:
        ValueError: the index has none, or a value is not valid.
    """
    index = read_json(folder / INDEX, "a model's index")
    if not isinstance(index.get("generation"), dict):
        raise ValueError(
            f"{folder / INDEX} holds no 'generation' settings, so it is no index of this library: "
            f"name a model folder as `longlive train` writes it."
        )
    return build(GenerationSettings, index["generation"], f"{folder / INDEX}, generation")


def write_index(folder: Path, settings: GenerationSettings, **notes: Any) -> None:
    """Write a model folder's index; ``notes`` are further keys, on where the model comes from."""
    parts = {part: list(named) for part, named in PART_CLASSES.items()}
    start = {"pipeline": "LongLivePipeline", **parts}
    index = {**start, "generation": settings.to_dict(), **notes}
    (folder / INDEX).write_text(to_json(index, INDEX, indent=2) + "\n", encoding="utf-8")
