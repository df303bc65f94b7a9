"""LongLivePipeline: a prompt becomes a video. The one place here where the parts meet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from longlive_core.attention import ATTENTION, Request
from longlive_core.backends import Receipt
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec
from longlive_models.diffusion import unipc_schedule
from longlive_models.folder import fingerprint, load_part, read_config
from longlive_models.generator import BlockGenerator
from longlive_models.hub import resolve
from longlive_models.settings import GenerationSettings, read_settings
from longlive_models.shots import BlockTiming, ShotPlan, Storyboard, StoryboardLike
from longlive_models.stream import Stream, Video, collect
from longlive_models.text import PocketTextConfig, PocketTextEncoder, TextEncoder
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig, WanTransformer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a pipeline computes and in which types, all of it decided.

    Attributes:
        weights, kv_cache: "fp32" or "bf16".
        attention: a backend of ``longlive_core.attention.ATTENTION``, or "auto".
        lane: where frames are decoded (``longlive_core.async_decode``).
    """

    device: torch.device
    weights: str
    kv_cache: str
    attention: str
    lane: str

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        weights: str = "auto",
        kv_cache: str = "auto",
        attention: str = "auto",
        lane: str = "auto",
    ) -> "Placement":
        """Decide what was left to "auto": a GPU if there is one; bf16 on it, fp32 on a CPU.

        Raises:
            ValueError: a precision or a device that is not there.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = _device(device)
        default = "fp32" if place.type == "cpu" else "bf16"
        chosen = {"weights": weights, "kv_cache": kv_cache}
        for name, value in chosen.items():
            chosen[name] = default if value == "auto" else value
            if chosen[name] not in PRECISIONS:
                raise ValueError(
                    f"{name}={value!r} is no precision of this version: it has "
                    f"{', '.join(PRECISIONS)}. Use one of them, or 'auto'."
                )
        if lane == "auto":
            lane = "stream" if place.type == "cuda" else "inline"
        return cls(device=place, attention=attention, lane=lane, **chosen)


class LongLivePipeline:
    """Generates videos of any length from prompts, block by block.

    ::

        pipe = LongLivePipeline.from_pretrained("pocket")
        video = pipe("a red circle moves right on a navy background", seconds=5, seed=7)
        video.save("circle.mp4")

    Args:
        transformer, vae, text: in evaluation mode, on ``placement.device``.
        settings: sizes, rates and defaults of the model.
        placement: devices and types.
        fingerprint: names the weights in records.
    """

    def __init__(
        self,
        transformer: WanTransformer,
        vae: WanVAE,
        text: TextEncoder,
        *,
        settings: GenerationSettings,
        placement: Placement,
        fingerprint: str = "",
    ) -> None:
        self.transformer = transformer
        self.vae = vae
        self.text = text
        self.settings = settings
        self.placement = placement
        self.fingerprint = fingerprint

    @classmethod
    def from_pretrained(
        cls,
        model: str = "pocket",
        *,
        device: str = "auto",
        weights: str = "auto",
        kv_cache: str = "auto",
        attention: str = "auto",
        lane: str = "auto",
        download: bool = False,
    ) -> "LongLivePipeline":
        """Load a model by name, folder or hub id (see ``longlive_models.hub.resolve``).

        Precision and backends are arguments, not other pipelines; "auto" decides by the device,
        and ``pipeline.placement`` says what was decided.
        """
        placement = Placement.choose(device, weights, kv_cache, attention, lane)
        folder = resolve(model, download=download)
        settings = read_settings(folder)
        values, tensors = load_part(folder / "transformer")
        with torch.device("meta"):
            transformer = WanTransformer(WanConfig.from_dict(values), attention=attention)
        transformer.load_state_dict(tensors, assign=True)
        values, tensors = load_part(folder / "vae")
        vae = WanVAE(VAEConfig.from_dict(values))
        vae.load_state_dict(tensors)
        values, tensors = load_part(folder / "text_encoder")
        text = PocketTextEncoder(PocketTextConfig.from_dict(values))
        text.load_state_dict(tensors)
        dtype = PRECISIONS[placement.weights]
        for part in (transformer, vae, text):
            part.to(placement.device, dtype).eval().requires_grad_(False)
        vae.channels_last_()
        return cls(
            transformer,
            vae,
            text,
            settings=settings,
            placement=placement,
            fingerprint=fingerprint(folder),
        )

    def __call__(
        self,
        prompt: StoryboardLike,
        *,
        seconds: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Video:
        """Generate a whole video and keep it in memory; ``stream`` has the arguments."""
        return collect(
            self.stream(prompt, seconds=seconds, seed=seed, steps=steps, guidance=guidance)
        )

    def stream(
        self,
        prompt: StoryboardLike,
        *,
        seconds: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Stream:
        """Generate a video block by block: an iterator of ``VideoBlock``.

        Args:
            prompt: a prompt, a list of shots, or a storyboard (``longlive_models.shots``).
            seconds: length; a storyboard whose shots all have one needs none, else 5.
            seed: the same seed gives the same video, and the start of any longer one.
            steps, guidance: the model's own unless given.

        Raises:
            ValueError: before anything is computed, for lengths or prompts that make no video.
        """
        settings = self.settings.override(steps=steps, guidance=guidance)
        plan = self.plan(prompt, seconds=seconds)
        generator = self.generator([seed], settings)
        return Stream(generator, self.vae, plan, lane=self.placement.lane)

    def plan(self, prompt: StoryboardLike, *, seconds: float | None = None) -> ShotPlan:
        """The blocks of a video, without generating any."""
        return plan_video(prompt, self.timing, seconds, self.settings.shot_offset)

    @property
    def timing(self) -> BlockTiming:
        """How blocks become seconds."""
        return BlockTiming(
            fps=self.settings.fps,
            frames_per_block=self.transformer.config.frames_per_block,
            temporal_factor=self.vae.config.temporal_stride,
        )

    def generator(self, seeds: Sequence[int], settings: GenerationSettings) -> BlockGenerator:
        """A block generator with an empty cache, for one video a seed."""
        config = self.transformer.config
        size = (
            settings.height // self.vae.config.spatial_stride,
            settings.width // self.vae.config.spatial_stride,
        )
        branches = 1 if settings.guidance == 1 else 2
        layout = CacheLayout(
            layers=config.num_layers,
            heads=config.num_heads,
            head_dim=config.head_dim,
            tokens_per_page=config.frames_per_block * config.tokens_per_frame(*size),
            samples=branches * len(seeds),
        )
        codec = PlainCodec(PRECISIONS[self.placement.kv_cache])
        cache = PagedKVCache(layout, settings.policy, codec, self.placement.device)
        return BlockGenerator(
            self.transformer,
            self.text,
            cache,
            sampler=unipc_schedule(settings.steps, settings.shift),
            latent_size=size,
            seeds=seeds,
            guidance=settings.guidance,
            negative_prompt=settings.negative_prompt,
        )

    def receipt(self) -> Receipt:
        """Which attention runs here, and why not the faster ones."""
        request = Request(
            device=self.placement.device,
            dtype=PRECISIONS[self.placement.weights],
            head_dim=self.transformer.config.head_dim,
        )
        return ATTENTION.receipt(request, self.placement.attention)


DEFAULT_SECONDS = 5.0
"""Length of a video whose shots do not say."""


def plan_video(
    prompt: StoryboardLike, timing: BlockTiming, seconds: float | None, shot_offset: float
) -> ShotPlan:
    """The blocks of a video; ``DEFAULT_SECONDS`` long if neither it nor its shots have a length."""
    storyboard = Storyboard.of(prompt)
    if seconds is None and any(
        shot.seconds is None and shot.blocks is None for shot in storyboard.shots
    ):
        seconds = DEFAULT_SECONDS
    return storyboard.plan(timing, seconds=seconds, shot_offset=shot_offset)


def read_timing(folder: Path) -> BlockTiming:
    """How a model folder's blocks become seconds; reads no weights."""
    transformer = WanConfig.from_dict(read_config(folder / "transformer"))
    vae = VAEConfig.from_dict(read_config(folder / "vae"))
    return BlockTiming(
        fps=read_settings(folder).fps,
        frames_per_block=transformer.frames_per_block,
        temporal_factor=vae.temporal_stride,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device={name!r} is no device: use 'auto', 'cpu', 'cuda' or 'cuda:1', say."
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={name!r} asks for a GPU, but this torch ({torch.__version__}) sees none: "
            f"use 'cpu', or install a CUDA build of torch."
        )
    return device
