"""LongLivePipeline: a prompt becomes a video. The one place here where the parts meet."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core import __version__
from longlive_core.backends import Receipt
from longlive_core.kv_cache import PagedKVCache
from longlive_core.nvfp4 import LinearConfig
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.block_steps import BlockSteps, check_block_steps
from longlive_models.callbacks import OnBlock, OnStep
from longlive_models.checkpoints.folder import fill, load_part, unfilled
from longlive_models.checkpoints.hub import is_published, resolve
from longlive_models.checkpoints.model_folder import check_sizes, read_text_config
from longlive_models.checkpoints.model_folder import read_spec as read_spec
from longlive_models.checkpoints.weight_hash import WeightHash
from longlive_models.first_frame import encode_image
from longlive_models.generator import BlockGenerator
from longlive_models.precision import load_transformer, model_receipts, set_precision
from longlive_models.prompts.report import warn_of
from longlive_models.prompts.steering import LiveSchedule
from longlive_models.prompts.storyboard import BlockTiming, ShotPlan, StoryboardLike
from longlive_models.prompts.storyboard import plan_video as plan_video
from longlive_models.published import LONGLIVE_5B, find_files, load_published
from longlive_models.runtime import Placement as Placement
from longlive_models.settings import GenerationSettings, ModelSpec, completed
from longlive_models.stream import Stream, Video, collect
from longlive_models.stream_snapshot import Origin, StreamSnapshot
from longlive_models.text import (
    UMT5_XXL,
    PocketTextEncoder,
    TextEncoder,
    UMT5Config,
)
from longlive_models.vae import WanVAE, load_vae
from longlive_models.wan import WanConfig, WanTransformer, share

ALONE = SequenceGroup()
"""One rank, which makes its videos by itself."""


class LongLivePipeline:
    """Generates videos of any length from prompts, block by block.

    ::

        pipe = LongLivePipeline.from_pretrained("pocket")
        video = pipe("a red circle moves right on a navy background", seconds=5, seed=7)
        video.save("circle.mp4")

    Args:
        transformer, vae, text: the parts; they are put where ``placement`` says, in place, and the
            transformer's linears get the precision that it names.
        settings: sizes, rates and defaults of the model.
        placement: devices and types.
        weights: the folder or file that ``fingerprint`` names.
        group: ranks that make each video together. All of them call the same methods with the same
            arguments; the first one decodes, the others' blocks have no frames.

    Raises:
        ValueError: parts that do not fit each other, or the picture's size; a block that cannot be
            shared by so many ranks.
        BackendUnavailable: a backend that was named and cannot run, or emulation under ``strict``.
    """

    def __init__(
        self,
        transformer: WanTransformer,
        vae: WanVAE,
        text: TextEncoder,
        *,
        settings: GenerationSettings,
        placement: Placement,
        weights: Path | None = None,
        group: SequenceGroup = ALONE,
    ) -> None:
        self.spec = ModelSpec(transformer=transformer.config, vae=vae.config, settings=settings)
        _check_text(transformer.config, text)
        placement.check(transformer.config)
        self._notes = set_precision(transformer, placement)
        placement.put(transformer)
        placement.put(vae, placement.decode_device)
        vae.reset_statistics()
        vae.channels_last_()
        if isinstance(text, torch.nn.Module):
            placement.put(text)
        self.transformer, self.sp = share(transformer, group, self.spec.latent_size)
        self.vae = vae
        self.text = text
        self.placement = placement
        self._hash = WeightHash(self._parts(), weights)

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
        linear: str = "auto",
        strict: bool = False,
        download: bool = False,
        group: SequenceGroup = ALONE,
    ) -> "LongLivePipeline":
        """Load a model by name, folder or hub id (see ``longlive_models.checkpoints.hub.resolve``).

        Precision and backends are arguments, not other pipelines; "auto" decides by the device,
        and ``pipeline.placement`` says what was decided (see ``Placement``), ``receipts`` what
        every layer runs on. A folder may also hold LongLive-2.0-5B as it was published (see
        ``longlive_models.published``), or weights in four bits, as ``longlive quantize`` writes
        them: ``weights="nvfp4"`` computes with them as they are, plain precisions decode them once.

        Raises:
            ValueError: no such model, device or precision, or a model that is not whole.
            BackendUnavailable: a backend that was named and cannot run, or emulation under
                ``strict``.
        """
        placement = Placement.choose(
            device, weights, kv_cache, attention, lane, linear=linear, strict=strict
        )
        folder = resolve(model, download=download)
        if is_published(folder):
            return cls.from_published(folder, placement=placement, download=download, group=group)
        spec = read_spec(folder)
        placement.check(spec.transformer)
        spec.require_room(placement.codec(), placement.device, ranks=group.size)
        check_sizes(folder, spec)
        transformer = load_transformer(folder / "transformer", spec.transformer, placement)
        vae = load_vae(load_part(folder / "vae")[1], config=spec.vae)
        with unfilled():
            text = PocketTextEncoder(read_text_config(folder))
        fill(text, load_part(folder / "text_encoder")[1], folder / "text_encoder")
        how: dict[str, Any] = {"placement": placement, "weights": folder, "group": group}
        return cls(transformer, vae, text, settings=spec.settings, **how)

    @classmethod
    def from_published(
        cls,
        folder: Path,
        *,
        placement: Placement,
        spec: ModelSpec = LONGLIVE_5B,
        text_config: UMT5Config = UMT5_XXL,
        download: bool = False,
        group: SequenceGroup = ALONE,
    ) -> "LongLivePipeline":
        """Load the original's files (see ``longlive_models.published``), of these sizes.

        ``fingerprint`` is that of the transformer's file alone: the others are the base model's.
        """
        packed = isinstance(placement.linears, LinearConfig)
        files = find_files(folder, packed=packed, download=download)
        placement.check(spec.transformer)
        spec.require_room(placement.codec(), placement.device, ranks=group.size)
        parts = load_published(files, placement=placement, spec=spec, text_config=text_config)
        how: dict[str, Any] = {"weights": files.transformer, "group": group}
        return cls(*parts, settings=spec.settings, placement=placement, **how)

    @property
    def settings(self) -> GenerationSettings:
        """Sizes, rates and defaults of the model."""
        return self.spec.settings

    @property
    def timing(self) -> BlockTiming:
        """How blocks become seconds."""
        return self.spec.timing

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the weights are now.

        That of their files while memory holds what was loaded; else, and without files, of the
        tensors in memory. Adapters are part of it.
        """
        return self._hash.of(self._parts())

    def __call__(
        self,
        prompt: StoryboardLike,
        *,
        seconds: float | None = None,
        seed: int = 0,
        sampler: str | None = None,
        steps: BlockSteps | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        image: Any = None,
        events: Iterable[Any] = (),
        on_step: OnStep | None = None,
        on_block: OnBlock | None = None,
    ) -> Video:
        """Generate a whole video and keep it in memory; ``stream`` has the arguments.

        Where ``on_step`` or ``on_block`` answers False, the video ends with its last whole block.

        Raises:
            ValueError: what ``stream`` refuses, and a video without an end.
        """
        if seconds == math.inf:
            raise ValueError(
                "seconds=inf makes a video without an end, which no memory holds: use "
                "pipe.stream(..., seconds=math.inf), and take its blocks as they come."
            )
        stream = self.stream(
            prompt,
            seconds=seconds,
            seed=seed,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            negative_prompt=negative_prompt,
            image=image,
            events=events,
            on_step=on_step,
            on_block=on_block,
        )
        return collect(stream)

    def stream(
        self,
        prompt: StoryboardLike,
        *,
        seconds: float | None = None,
        seed: int = 0,
        sampler: str | None = None,
        steps: BlockSteps | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        image: Any = None,
        events: Iterable[Any] = (),
        on_step: OnStep | None = None,
        on_block: OnBlock | None = None,
    ) -> Stream:
        """Generate a video block by block: an iterator of ``VideoBlock``, which can be steered.

        Words that the model does not know, and what else it does not take of the prompts, are said
        with a ``PromptWarning`` and kept in ``Stream.not_shown``.

        Args:
            prompt: a prompt, a list of shots, or a storyboard (``Storyboard``).
            seconds: length; a storyboard whose shots all have one needs none, else 5.
                ``math.inf`` goes on until it is closed.
            seed: the same seed gives the same video, and the start of any longer one.
            sampler: a name of ``longlive_models.choices.SAMPLERS``; the model's own unless given.
            steps: denoising steps of every block, or of block 0, block 1, ... as a tuple, whose
                last number holds for all later blocks; the model's own unless given.
            guidance: the model's own unless given.
            negative_prompt: what guidance moves away from; the model's own unless given.
            image: what the video starts with: uint8 [height, width, 3], or a file. Cropped to the
                video's proportions.
            events: of another stream (``Stream.events``), to make its video again.
            on_step: called with a ``StepReport`` after each denoising step: block, step, steps,
                timestep, sigma, latents. False drops the block in progress and ends the video.
            on_block: called with each ``VideoBlock`` before it comes out; False makes it the last.

        Raises:
            ValueError: before anything is generated, for what makes no video.
            NonFiniteVideo: by the iterator, at a block whose latents or frames hold no numbers.
        """
        settings = self.settings.override(
            sampler=sampler, steps=steps, guidance=guidance, negative_prompt=negative_prompt
        )
        schedule = LiveSchedule(self.plan(prompt, seconds=seconds), events)
        first = None
        if image is not None:
            height, width = self.settings.height, self.settings.width
            first = encode_image(image, self.vae, height, width).to(self.placement.device)
        generator = self.generator([seed], settings, image=first)
        stream = self._start(generator, settings, schedule, on_step=on_step, on_block=on_block)
        if self.sp.group.rank == 0:
            warn_of(stream.not_shown, self.text)
        return stream

    def resume(
        self, path: str | Path, *, on_step: OnStep | None = None, on_block: OnBlock | None = None
    ) -> Stream:
        """Go on where ``Stream.snapshot`` was taken, bit for bit, on whatever lane.

        The callbacks are those of ``stream``; a snapshot holds none.

        Raises:
            ValueError: no snapshot, or one of another model, precision, setting or version.
        """
        saved = StreamSnapshot.load(path)
        made_with = completed(saved.origin.settings)
        settings = self.settings.override(
            sampler=made_with["sampler"],
            steps=check_block_steps("steps", made_with["steps"]),
            guidance=made_with["guidance"],
            negative_prompt=made_with["negative_prompt"],
        )
        saved.origin.require(self._origin(settings), Path(path))
        generator = self.generator([saved.seed], settings)
        generator.restore(saved.generator)
        state = None if saved.decoder is None else saved.decoder.to(self.placement.decode_device)
        schedule = LiveSchedule(saved.plan, saved.events, begun=generator.cache.blocks)
        how: dict[str, Any] = {"on_step": on_step, "on_block": on_block}
        return self._start(generator, settings, schedule, state=state, ready=saved.ready, **how)

    def _start(
        self,
        generator: BlockGenerator,
        settings: GenerationSettings,
        schedule: LiveSchedule,
        **how: Any,
    ) -> Stream:
        origin = partial(self._origin, settings)
        lane, first = self.placement.lane, self.sp.group.rank == 0
        return Stream(
            generator,
            self.vae,
            schedule,
            lane=lane,
            origin=origin,
            decodes=first,
            reader=self.text,
            **how,
        )

    def _origin(self, settings: GenerationSettings) -> Origin:
        """What must be the same where a stream with these settings is resumed."""
        if self.sp.group.size > 1:
            raise ValueError(
                f"a snapshot holds all heads of a stream's past, but this pipeline spreads them "
                f"over {self.sp.group.size} ranks. Take and resume snapshots on one rank."
            )
        return Origin(
            version=__version__,
            model=self.fingerprint,
            weights=self.placement.weights,
            compute=self.placement.compute,
            kv_cache=self.placement.kv_cache,
            settings=settings.to_dict(),
        )

    def _parts(self) -> dict[str, torch.nn.Module]:
        parts = {"transformer": self.transformer, "vae": self.vae, "text": self.text}
        return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}

    def plan(self, prompt: StoryboardLike, *, seconds: float | None = None) -> ShotPlan:
        """The blocks of a video, without generating any."""
        return plan_video(prompt, self.timing, seconds, self.settings.shot_offset)

    def generator(
        self,
        seeds: Sequence[int],
        settings: GenerationSettings,
        *,
        image: Float[Tensor, "videos channels 1 rows columns"] | None = None,
    ) -> BlockGenerator:
        """A block generator with an empty cache, for one video a seed, side by side.

        ``image`` has what each video starts with, from ``first_frame.encode_image``.
        """
        samples = settings.branches * len(seeds)
        layout = replace(self.spec.cache_layout(samples), heads=len(self.sp.heads))
        codec = self.placement.codec(self.sp.max_over_group)
        return BlockGenerator(
            self.transformer,
            self.text,
            PagedKVCache(layout, settings.policy, codec, self.placement.device),
            sampler=settings.block_sampler,
            latent_size=self.spec.latent_size,
            seeds=seeds,
            guidance=settings.guidance,
            negative_prompt=settings.negative_prompt,
            t_scale=settings.t_scale,
            image=image,
        )

    def receipts(self) -> dict[str, tuple[Receipt, ...]]:
        """What attention, an encoded cache and every linear run on here, and why not the others.

        ``longlive_models.precision.in_short`` makes a few lines of it.
        """
        attention = self.placement.receipt(self.transformer.config.head_dim)
        layers = model_receipts(self.transformer, self.placement, self._notes)
        return {"attention": (attention,), "kv_cache": self.placement.cache_receipts(), **layers}


def _check_text(wan: WanConfig, text: TextEncoder) -> None:
    if text.text_dim != wan.text_dim or text.text_len > wan.text_len:
        raise ValueError(
            f"the text encoder gives {text.text_len} rows of {text.text_dim}, the transformer "
            f"takes up to {wan.text_len} of {wan.text_dim}: they are parts of different models. "
            f"Take both from one training run."
        )
