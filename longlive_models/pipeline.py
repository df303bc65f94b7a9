"""LongLivePipeline, which joins transformer, text encoder and VAE and makes videos of prompts."""

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
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.block_steps import BlockSteps, check_block_steps
from longlive_models.callbacks import OnBlock, OnStep
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.weight_hash import FileHash, WeightHash
from longlive_models.first_frame import encode_image
from longlive_models.generator import BlockGenerator
from longlive_models.loading import ALONE, LoadedModel, check_text, load_model, reduce_amax
from longlive_models.precision import model_receipts, set_precision
from longlive_models.prompts.report import warn_of
from longlive_models.prompts.steering import LiveSchedule
from longlive_models.prompts.storyboard import BlockTiming, ShotPlan, StoryboardLike
from longlive_models.prompts.storyboard import plan_video as plan_video
from longlive_models.runtime import Runtime as Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.settings import GenerationSettings, ModelSpec, completed
from longlive_models.stream import Stream, Video, VideoBlock, collect
from longlive_models.stream_snapshot import Origin, StreamSnapshot
from longlive_models.text import TextEncoder
from longlive_models.vae import StreamState, WanVAE
from longlive_models.wan import WanTransformer, partition_blocks, share


class LongLivePipeline:
    """Generates videos of any length from prompts, block by block.

    ::

        pipe = LongLivePipeline.from_pretrained("pocket")
        video = pipe("a red circle moves right on a navy background", seconds=5, seed=7)
        video.save("circle.mp4")

    Args:
        transformer, vae, text: the parts. They are changed in place: moved to the devices that
            ``runtime`` names, and the transformer's linears get its precision.
        settings: picture size, rates and defaults of the model.
        runtime: devices and types.
        weights: the folder or file whose hash is the ``fingerprint``, or that hash if it is known.
        group: the ranks that make each video together. All of them call the same methods with the
            same arguments; the first one decodes, the others' blocks have no frames.

        Raises:
            ValueError: the parts do not fit each other or the picture's size, or a block cannot be
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
        runtime: Runtime,
        weights: Path | FileHash | None = None,
        group: SequenceGroup = ALONE,
    ) -> None:
        self.spec = ModelSpec(transformer=transformer.config, vae=vae.config, settings=settings)
        check_text(transformer.config, text)
        runtime.check(transformer.config)
        self._notes = set_precision(transformer, runtime, reduce_amax(self.spec, group))
        runtime.put(transformer)
        runtime.put(vae, runtime.decode_device)
        vae.reset_statistics()
        vae.channels_last_()
        if isinstance(text, torch.nn.Module):
            runtime.put(text)
        self.sp = partition_blocks(transformer.config, group, self.spec.latent_size)
        self.transformer = share(transformer, self.sp)
        self.vae = vae
        self.text = text
        self.runtime = runtime
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

        Precision and backends are arguments; "auto" decides by the device. ``pipeline.runtime``
        tells what was decided (see ``Runtime``), and ``pipeline.receipts()`` which backend every
        layer runs on. A folder may also hold LongLive-2.0-5B as it was published (see
        ``longlive_models.published``), or weights in four bits, as ``longlive quantize`` writes
        them: ``weights="nvfp4"`` computes with them as they are, plain precisions decode them once.

        Raises:
            ValueError: there is no such model, device or precision, or the model is not complete.
            BackendUnavailable: a backend that was named and cannot run, or emulation under
                ``strict``.
        """
        options = RuntimeOptions(
            device=device,
            weights=weights,
            kv_cache=kv_cache,
            attention=attention,
            lane=lane,
            linear=linear,
            strict=strict,
        )
        return cls.load(model, Runtime.choose(options), download=download, group=group)

    @classmethod
    def load(
        cls,
        model: str,
        runtime: Runtime,
        *,
        download: bool = False,
        group: SequenceGroup = ALONE,
        files: FileHash | None = None,
    ) -> "LongLivePipeline":
        """As ``from_pretrained``, for a given ``Runtime``; ``files``: the files' hash, if known."""
        folder = resolve(model, download=download)
        loaded = load_model(folder, runtime, download=download, group=group)
        return cls.of(loaded, runtime, group=group, files=files)

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        runtime: Runtime,
        *,
        group: SequenceGroup = ALONE,
        files: FileHash | None = None,
    ) -> "LongLivePipeline":
        """A pipeline of loaded parts, which it owns from then on and changes in place."""
        return cls(
            loaded.transformer,
            loaded.vae,
            loaded.text,
            settings=loaded.settings,
            runtime=runtime,
            weights=loaded.weights if files is None else files,
            group=group,
        )

    @property
    def settings(self) -> GenerationSettings:
        """Picture size, rates and defaults of the model."""
        return self.spec.settings

    @property
    def timing(self) -> BlockTiming:
        """Conversions between blocks, frames and seconds."""
        return self.spec.timing

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights as they are now.

        The hash of the files while memory holds what was loaded from them, else that of the
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
        """Generate a whole video in memory. ``stream`` describes the arguments.

        If ``on_step`` or ``on_block`` returns False, the video ends with its last whole block.

        Raises:
            ValueError: an argument that ``stream`` refuses, or a video without an end.
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

        A ``PromptWarning`` tells of words that the model does not know and of other parts of the
        prompts that it leaves out; ``Stream.not_shown`` has them too.

        Args:
            prompt: a prompt, a list of shots, or a storyboard (``Storyboard``).
            seconds: the length; 5 by default, or the sum of the shots' lengths if all have one.
                ``math.inf`` makes a video that goes on until the stream is closed.
            seed: the same seed gives the same video, and the start of any longer one.
            sampler: a name of ``longlive_models.choices.SAMPLERS``; the model's own unless given.
            steps: denoising steps of every block, or of block 0, block 1, ... as a tuple, whose
                last number holds for all later blocks; the model's own unless given.
            guidance: the model's own unless given.
            negative_prompt: what guidance moves away from; the model's own unless given.
            image: what the video starts with: uint8 [height, width, 3], or a file. Cropped to the
                video's proportions.
            events: the ``Stream.events`` of another stream, to make its video again.
            on_step: called with a ``StepReport`` after each denoising step; if it returns False,
                the block in progress is dropped and the video ends.
            on_block: called with each ``VideoBlock`` before it is handed out; if it returns False,
                that block is the last one.

            Raises:
                ValueError: an argument is not valid; raised before anything is generated.
                NonFiniteVideo: raised by the iterator, for a block whose latents or frames are NaN,
                    infinite or far too large.
        """
        settings = self.settings.override(
            sampler=sampler, steps=steps, guidance=guidance, negative_prompt=negative_prompt
        )
        schedule = LiveSchedule(self.plan(prompt, seconds=seconds), events)
        first = None
        if image is not None:
            height, width = self.settings.height, self.settings.width
            first = encode_image(image, self.vae, height, width).to(self.runtime.device)
        generator = self.generator([seed], settings, image=first)
        stream = self._start(generator, settings, schedule, on_step=on_step, on_block=on_block)
        if self.sp.group.rank == 0:
            warn_of(stream.not_shown, self.text)
        return stream

    def resume(
        self, path: str | Path, *, on_step: OnStep | None = None, on_block: OnBlock | None = None
    ) -> Stream:
        """Continue a stream from the file that ``Stream.snapshot`` wrote, bit for bit.

        The lane may be another one. A snapshot holds no callbacks: pass them as for ``stream``.

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
        state = None if saved.decoder is None else saved.decoder.to(self.runtime.decode_device)
        schedule = LiveSchedule(saved.plan, saved.events, begun=generator.cache.blocks)
        return self._start(
            generator,
            settings,
            schedule,
            state=state,
            ready=saved.ready,
            on_step=on_step,
            on_block=on_block,
        )

    def _start(
        self,
        generator: BlockGenerator,
        settings: GenerationSettings,
        schedule: LiveSchedule,
        *,
        state: StreamState | None = None,
        ready: Iterable[VideoBlock] = (),
        on_step: OnStep | None,
        on_block: OnBlock | None,
    ) -> Stream:
        return Stream(
            generator,
            self.vae,
            schedule,
            lane=self.runtime.lane,
            origin=partial(self._origin, settings),
            state=state,
            ready=ready,
            decodes=self.sp.group.rank == 0,
            reader=self.text,
            on_step=on_step,
            on_block=on_block,
        )

    def _origin(self, settings: GenerationSettings) -> Origin:
        """What a snapshot records of this pipeline; it must be the same where it is resumed."""
        if self.sp.group.size > 1:
            raise ValueError(
                f"a snapshot holds all heads of a stream's past, but this pipeline spreads them "
                f"over {self.sp.group.size} ranks. Take and resume snapshots on one rank."
            )
        return Origin(
            version=__version__,
            model=self.fingerprint,
            weights=self.runtime.weights,
            compute=self.runtime.compute,
            kv_cache=self.runtime.kv_cache,
            settings=settings.to_dict(),
        )

    def _parts(self) -> dict[str, torch.nn.Module]:
        parts = {"transformer": self.transformer, "vae": self.vae, "text": self.text}
        return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}

    def plan(self, prompt: StoryboardLike, *, seconds: float | None = None) -> ShotPlan:
        """Plan the blocks of a video without generating any."""
        return plan_video(prompt, self.timing, seconds, self.settings.shot_offset)

    def generator(
        self,
        seeds: Sequence[int],
        settings: GenerationSettings,
        *,
        image: Float[Tensor, "videos channels 1 rows columns"] | None = None,
    ) -> BlockGenerator:
        """Make a block generator with an empty cache, for one video of each seed, side by side.

        ``image`` has each video's first latent frame, made by ``first_frame.encode_image``.
        """
        samples = settings.branches * len(seeds)
        layout = replace(self.spec.cache_layout(samples), heads=len(self.sp.heads))
        codec = self.runtime.codec(self.sp.max_over_group)
        return BlockGenerator(
            self.transformer,
            self.text,
            PagedKVCache(layout, settings.policy, codec, self.runtime.device),
            sampler=settings.block_sampler,
            latent_size=self.spec.latent_size,
            seeds=seeds,
            guidance=settings.guidance,
            negative_prompt=settings.negative_prompt,
            t_scale=settings.t_scale,
            image=image,
        )

    def receipts(self) -> dict[str, tuple[Receipt, ...]]:
        """The backends of attention, the encoded cache and every linear, and why no faster ones.

        ``longlive_models.precision.in_short`` makes a few lines of them.
        """
        attention = self.runtime.receipt(self.transformer.config.head_dim)
        layers = model_receipts(self.transformer, self.runtime, self._notes)
        return {"attention": (attention,), "kv_cache": self.runtime.cache_receipts(), **layers}
