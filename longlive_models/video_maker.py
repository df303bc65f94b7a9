"""VideoMaker, which makes videos with a pipeline's parts: whole, as streams, from snapshots."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core import __version__
from longlive_core.kv_cache import PagedKVCache
from longlive_core.sequence_parallel import BalancedSP
from longlive_models.block_steps import BlockSteps, check_block_steps
from longlive_models.callbacks import OnBlock, OnStep
from longlive_models.checkpoints.weight_hash import WeightHash
from longlive_models.clip import Clip, encode_blocks
from longlive_models.diffusers_words import DiffusersWords, Own, translate
from longlive_models.first_frame import encode_image
from longlive_models.generator import BlockGenerator
from longlive_models.prompts.report import warn_of
from longlive_models.prompts.steering import LiveSchedule
from longlive_models.prompts.storyboard import BlockTiming, Past, ShotPlan, StoryboardLike
from longlive_models.prompts.storyboard import plan_video as plan_video
from longlive_models.runtime import Runtime
from longlive_models.sampling_notes import warn_of_sampling
from longlive_models.settings import GenerationSettings, ModelSpec, completed
from longlive_models.stream import Stream, VideoBlock
from longlive_models.stream_snapshot import Origin, StreamSnapshot
from longlive_models.text import TextEncoder
from longlive_models.vae import StreamState, WanVAE
from longlive_models.video.blocks import Video, decoder
from longlive_models.wan import WanTransformer


class VideoMaker:
    """What a ``LongLivePipeline`` does with its parts; it has no other subclass.

    Attributes:
        spec: the sizes of the parts, and the model's settings.
        transformer, vae, text: the parts, on their devices.
        runtime: devices, types and backends.
        sp: which share of a block this rank has.
    """

    spec: ModelSpec
    transformer: WanTransformer
    vae: WanVAE
    text: TextEncoder
    runtime: Runtime
    sp: BalancedSP
    _hash: WeightHash

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

    def _parts(self) -> dict[str, nn.Module]:
        parts = {"transformer": self.transformer, "vae": self.vae, "text": self.text}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    def __call__(
        self,
        prompt: StoryboardLike,
        *,
        seconds: float | None = None,
        seed: int | None = None,
        sampler: str | None = None,
        steps: BlockSteps | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        image: Any = None,
        video: Any = None,
        cut: bool = False,
        video_prompt: str | None = None,
        events: Iterable[Any] = (),
        on_step: OnStep | None = None,
        on_block: OnBlock | None = None,
        **words: Unpack[DiffusersWords],
    ) -> Any:
        """Generate a whole video in memory. ``stream`` describes the arguments; the seed is 0.

        If ``on_step`` or ``on_block`` returns False, the video ends with its last whole block.
        ``DiffusersWords`` has the words of Diffusers that may be given instead.

        Returns:
            a ``Video``, or what ``output_type`` names.

        Raises:
            ValueError: an argument that ``stream`` refuses, or a video without an end.
        """
        if seconds == math.inf:
            raise ValueError(
                "seconds=inf makes a video without an end, which no memory holds: use "
                "pipe.stream(..., seconds=math.inf), and take its blocks as they come."
            )
        own = Own(seconds=seconds, seed=seed, steps=steps, guidance=guidance, on_step=on_step)
        said = translate(self, self.settings, words, own)
        stream = self.stream(
            prompt,
            seconds=said.own.seconds,
            seed=0 if said.own.seed is None else said.own.seed,
            steps=said.own.steps,
            guidance=said.own.guidance,
            on_step=said.own.on_step,
            sampler=sampler,
            negative_prompt=negative_prompt,
            image=image,
            video=video,
            cut=cut,
            video_prompt=video_prompt,
            events=events,
            on_block=on_block,
        )
        return said.answer(_collected(stream))

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
        video: Any = None,
        cut: bool = False,
        video_prompt: str | None = None,
        events: Iterable[Any] = (),
        on_step: OnStep | None = None,
        on_block: OnBlock | None = None,
    ) -> Stream:
        """Generate a video block by block: an iterator of ``VideoBlock``, which can be steered.

        A ``PromptWarning`` tells of words that the model does not know and of other parts of the
        prompts that it leaves out; ``Stream.not_shown`` has them too. A ``SamplingWarning`` tells
        of sampler, steps or guidance that a student of distillation was not trained for.

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
            video: a clip that the video goes on from: a file, a ``Video``, or uint8 [frames,
                height, width, 3] at the model's rate. Its last blocks, as many as a block sees
                before itself, are resampled to the model's rate, cropped like an image, encoded,
                and remembered; the stream has the frames after them. They are blocks 0, 1, ...,
                so the first new block's number is ``Stream.next_block``.
            cut: whether a new shot begins after the clip.
            video_prompt: what the clip shows, if a cut follows it; the prompt unless given.
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
        clip = self._clip(image, video, cut, video_prompt)
        past = clip[1] if clip is not None else None
        plan = self.plan(prompt, seconds=seconds, past=past)
        schedule = LiveSchedule(plan, events, begun=plan.past)
        first = None
        if image is not None:
            height, width = self.settings.height, self.settings.width
            first = encode_image(image, self.vae, height, width).to(self.runtime.device)
        generator = self.generator([seed], settings, image=first)
        state = None if clip is None else self._remember(clip[0], generator, schedule)
        stream = self._start(
            generator, settings, schedule, state=state, on_step=on_step, on_block=on_block
        )
        if self.sp.group.rank == 0:
            warn_of_sampling(self.settings, settings, adapted=bool(self.runtime.lora))
            warn_of(stream.not_shown, self.text)
        return stream

    def _clip(
        self, image: Any, video: Any, cut: bool, video_prompt: str | None
    ) -> tuple[Clip, Past] | None:
        """The clip to go on from. Raises ValueError for words about a clip where none is given."""
        if video is None:
            if cut or video_prompt is not None:
                given = "cut=True" if cut else f"video_prompt={video_prompt!r}"
                raise ValueError(
                    f"{given} is about a clip that the video goes on from, and there is none: pass "
                    f"video, or leave it out."
                )
            return None
        if image is not None:
            raise ValueError(
                "image and video both say what the video begins with: pass the picture that it "
                "starts from, or the clip that it goes on from."
            )
        clip = Clip.open(video, self.timing.fps)
        blocks = clip.blocks(self.timing, self.settings.policy)
        return clip, Past(blocks=blocks, cut=cut, prompt=video_prompt)

    def _remember(
        self, clip: Clip, generator: BlockGenerator, schedule: LiveSchedule
    ) -> StreamState | None:
        """Fill a generator's cache with a clip's last blocks; returns the decoder's state then."""
        decode = decoder(self.vae, to_host=False) if self.sp.group.rank == 0 else None
        state: StreamState | None = None
        height, width = self.settings.height, self.settings.width
        blocks = clip.last(schedule.plan.past, self.timing)
        for index, latents in enumerate(encode_blocks(blocks, self.vae, height, width)):
            if decode is not None:
                _, state = decode(latents, state)
            latents = latents.to(self.runtime.device)
            generator.remember(index, [schedule.block(index)], latents)
        return state

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
            quality=self.runtime.quality,
        )

    def plan(
        self, prompt: StoryboardLike, *, seconds: float | None = None, past: Past | None = None
    ) -> ShotPlan:
        """Plan the blocks of a video without generating any."""
        return plan_video(prompt, self.timing, seconds, self.settings.shot_offset, past)

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
        windows = self.runtime.reads_windows(layout.head_dim)
        return BlockGenerator(
            self.transformer,
            self.text,
            PagedKVCache(layout, settings.policy, codec, self.runtime.device, windows=windows),
            sampler=settings.block_sampler,
            latent_size=self.spec.latent_size,
            seeds=seeds,
            guidance=settings.guidance,
            negative_prompt=settings.negative_prompt,
            t_scale=settings.t_scale,
            image=image,
        )


def _collected(stream: Stream) -> Video:
    """All blocks of a stream as one tensor; without frames if it stopped before its first block."""
    none = torch.empty(0, *stream.size, 3, dtype=torch.uint8, device="cpu")
    frames = torch.cat([none, *(block.frames for block in stream)])
    return Video(frames, stream.plan.timing.fps, stream.not_shown.unknown_words)
