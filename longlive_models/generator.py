"""Block by block: noise, a few denoising steps against the cache, one clean pass that fills it."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import real
from longlive_core.kv_cache import (
    AbsolutePositions,
    CacheSnapshot,
    PagedKVCache,
    PositionPolicy,
)
from longlive_core.noise import gaussian
from longlive_models.diffusion import UniPCSchedule, guide, unipc
from longlive_models.diffusion.flow import check_guidance
from longlive_models.diffusion.samplers import StepDone, unchanged
from longlive_models.finite import LARGEST_WEIGHT, Check, Checks, sound, sound_weights
from longlive_models.first_frame import clean_first_frame, pin_first_frame
from longlive_models.prompts.storyboard import BlockPrompt, PromptSchedule
from longlive_models.text import TextEncoder
from longlive_models.wan import TextContext, WanTransformer

Latents = Float[Tensor, "batch channels frames height width"]
Image = Float[Tensor, "batch channels 1 height width"]


@dataclass(frozen=True, slots=True, eq=False)
class LatentBlock:
    """One generated block.

    Attributes:
        index: which block of the video it is.
        latents: float32 [batch, channels, frames, height, width], normalized.
        prompt: what it was asked to show; of a batch, what its first video was.
        checks: whether its numbers are numbers: read them, before its frames are shown, with
            ``checks.require(index, parts)``, which waits for the device.
    """

    index: int
    latents: Latents
    prompt: BlockPrompt
    checks: Checks


@dataclass(frozen=True, slots=True, eq=False)
class KeptBlock:
    """What it takes to encode a page again: its block's latents and the offset it was made at."""

    latents: Latents
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratorState:
    """All that a generator remembers between two blocks, on the CPU.

    Attributes:
        cache: the pages.
        kept: by page, what encodes the pages that are held again.
        image: the first frame, until the block that shows it is made.
    """

    cache: CacheSnapshot
    kept: dict[int, KeptBlock]
    image: Image | None


class BlockGenerator:
    """Generates the latents of one video, or of several with the same cuts side by side.

    Under guidance the cache holds two samples for each video: first those of the prompts, then
    those of the negative prompt; ``cache.layout.samples`` is twice the number of videos. Without
    guidance (1) there is no second half, and the negative prompt is not even encoded.
    See LongLive-2.0 (arXiv 2605.18739), autoregressive inference.

    Args:
        model: in evaluation mode, on its device.
        text: encodes prompts, each on its own, so that no prompt depends on its neighbors.
        cache: empty, with a sample for each video and guidance branch.
        sampler: the steps of a block.
        latent_size: latent (height, width).
        seeds: one of each video; noise depends on (seed, latent frame) alone.
        guidance: 1 follows the prompt as trained; more follows it more strongly.
        negative_prompt: what guidance moves away from.
        t_scale: multiplies temporal positions.
        positions: places blocks and their past in time; absolute if not given.
        image: latents of the frame that each video starts with, if it is given: image-to-video.
    """

    def __init__(
        self,
        model: WanTransformer,
        text: TextEncoder,
        cache: PagedKVCache,
        *,
        sampler: UniPCSchedule,
        latent_size: tuple[int, int],
        seeds: Sequence[int],
        guidance: float = 1.0,
        negative_prompt: str = "",
        t_scale: float = 1.0,
        positions: PositionPolicy | None = None,
        image: Image | None = None,
    ) -> None:
        guidance = check_guidance(guidance)
        branches = 1 if guidance == 1 else 2
        if not seeds or cache.layout.samples != branches * len(seeds):
            raise ValueError(
                f"the cache holds {cache.layout.samples} samples, but {len(seeds)} videos with "
                f"guidance {guidance} need {branches * len(seeds)}: build the CacheLayout with "
                f"one sample for each video and branch, and give one seed or more."
            )
        positions = AbsolutePositions() if positions is None else positions
        if positions.rotated != cache.layout.rotated:
            raise ValueError(
                f"{positions} need a cache of CacheLayout(rotated={positions.rotated}), got "
                f"{cache.layout}: it says whether keys are cached with their positions. "
                f"Build the layout for the policy."
            )
        seeds = [check_seed(seed) for seed in seeds]
        why = "it multiplies temporal positions. Pass 1.0 for the model's own."
        t_scale = real("t_scale", t_scale, above=0, why=why)
        _check_image(image, (len(seeds), model.config.in_channels, 1, *latent_size))
        self.model = model
        self.text = text
        self.cache = cache
        self.sampler = sampler
        self.latent_size = latent_size
        self.seeds = tuple(seeds)
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.t_scale = t_scale
        self.positions = positions
        self._image = image
        self._kept: dict[int, KeptBlock] = {}
        self._features: dict[str, Tensor] = {}
        self._embedded: tuple[tuple[str, ...], TextContext] | None = None
        self._weights_checked = False

    def blocks(self, schedules: Sequence[PromptSchedule], count: int) -> Iterator[LatentBlock]:
        """Generate blocks 0 .. ``count`` - 1; ``schedules`` has one entry for each video."""
        for index in range(count):
            yield self.generate(index, [schedule.block(index) for schedule in schedules])

    @torch.no_grad()
    def generate(
        self, index: int, prompts: Sequence[BlockPrompt], *, on_step: StepDone | None = None
    ) -> LatentBlock:
        """Denoise block ``index``, write it to the cache, and return it.

        ``on_step(step, latents)`` is told what each step gave; what it raises ends the block.

        Raises:
            ValueError: not one prompt a video, or what moves the cache is not the same in all.
        """
        self._check(index, prompts)
        prompt, text = prompts[0], self._embed([prompt.text for prompt in prompts])
        if prompt.recache:
            self._encode_again(text)
        noise = self._noise(index)
        image = self._image if index == 0 else None
        self.cache.begin_block(index)
        answers: dict[Check, Tensor] = {}
        steps = itertools.count(1)

        def denoise(latents: Tensor, timestep: float) -> Tensor:
            timesteps = latents.new_full((len(latents), latents.shape[2]), timestep)
            if image is not None:
                timesteps = clean_first_frame(timesteps)
            predicted = self._velocity(latents, timesteps, text, index, prompt.offset)
            if self.guidance != 1:
                conditional, unconditional = predicted.chunk(2)
                predicted = guide(conditional, unconditional, self.guidance)
            answers[Check("the velocities", next(steps))] = sound(predicted)
            return predicted

        pin = unchanged if image is None else partial(pin_first_frame, image=image)
        latents = unipc(denoise, noise, self.sampler, constrain=pin, on_step=on_step)
        answers[Check("the latents", self.sampler.steps)] = sound(latents)
        if not self._weights_checked:
            self._weights_checked = True
            weights = Check("weights of the transformer", 1, LARGEST_WEIGHT)
            answers[weights] = sound_weights(self.model)
        if prompt.forget:
            self.cache.start_shot(forget=True)
        self._remember(latents, text, index, prompt.offset)
        if prompt.cut:
            self.cache.start_shot()
        self._kept[index] = KeptBlock(latents, prompt.offset)
        self._kept = {page: self._kept[page] for page in self.cache.pages}
        return LatentBlock(index, latents, prompt, Checks.join(answers))

    def snapshot(self) -> GeneratorState:
        """What it takes to go on later, bit for bit, copied to the CPU; between two blocks."""
        kept = {
            page: KeptBlock(block.latents.to("cpu", copy=True), block.offset)
            for page, block in self._kept.items()
        }
        image = self._image if self.cache.blocks == 0 else None
        return GeneratorState(
            cache=self.cache.snapshot(), kept=kept, image=None if image is None else image.cpu()
        )

    def restore(self, state: GeneratorState) -> None:
        """Become what the snapshot holds. Raises ValueError if it is of another cache."""
        self.cache.restore(state.cache)
        self._kept = {
            page: KeptBlock(block.latents.to(self.device), block.offset)
            for page, block in state.kept.items()
        }
        self._image = None if state.image is None else state.image.to(self.device)

    def fork(self) -> "BlockGenerator":
        """An independent generator that goes on from here."""
        other = BlockGenerator(
            self.model,
            self.text,
            self.cache.fork(),
            sampler=self.sampler,
            latent_size=self.latent_size,
            seeds=self.seeds,
            guidance=self.guidance,
            negative_prompt=self.negative_prompt,
            t_scale=self.t_scale,
            positions=self.positions,
            image=self._image,
        )
        other._kept = dict(self._kept)
        return other

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model computes in."""
        return self.model.patch_embedding.weight.dtype

    def _check(self, index: int, prompts: Sequence[BlockPrompt]) -> None:
        if len(prompts) != len(self.seeds):
            raise ValueError(
                f"got {len(prompts)} prompts for {len(self.seeds)} seeds: each video needs one of "
                f"both."
            )
        if len({(p.cut, p.offset, p.recache, p.forget) for p in prompts}) > 1:
            raise ValueError(
                f"the videos of one batch must be cut at the same blocks, but block {index} "
                f"differs among them: the cache has one shot anchor. Generate them one by one."
            )

    def _velocity(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: TextContext,
        block: int,
        offset: float,
        *,
        remember: bool = False,
    ) -> Tensor:
        """What the model says of a block's latents, in both branches under guidance."""
        if self.guidance != 1:
            latents, timesteps = torch.cat([latents, latents]), torch.cat([timesteps, timesteps])
        order, frames = self.cache.order, self.model.config.frames_per_block
        places = self.positions.places(order, block, frames, offset)

        def tensor(numbers: tuple[float, ...]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.float64, device=latents.device)

        return self.model(
            latents.to(self.dtype),
            timesteps,
            text,
            positions=tensor(places.own),
            key_positions=None if places.keys is None else tensor(places.keys),
            t_scale=self.t_scale,
            memory=self.cache,
            remember=remember,
        )

    def _remember(self, latents: Tensor, text: TextContext, block: int, offset: float) -> None:
        """The clean pass: it fills the page in progress."""
        timesteps = latents.new_zeros(len(latents), latents.shape[2])
        self._velocity(latents, timesteps, text, block, offset, remember=True)
        self.cache.commit()

    def _encode_again(self, text: TextContext) -> None:
        """Bring what the next block will see under a new text: the oldest page first."""
        for page in self.cache.visible_next:
            self.cache.begin_rewrite(page)
            kept = self._kept[page]
            self._remember(kept.latents, text, page, kept.offset)

    def _noise(self, block: int) -> Latents:
        size = self.model.config.frames_per_block
        frames = range(block * size, (block + 1) * size)
        shape = (self.model.config.in_channels, *self.latent_size)
        noise = torch.stack([gaussian(seed, frames, shape) for seed in self.seeds]).transpose(1, 2)
        if self.device.type == "cuda":  # from pinned memory the host need not wait for the copy
            return noise.pin_memory().to(self.device, non_blocking=True)
        return noise.to(self.device)

    def _embed(self, texts: list[str]) -> TextContext:
        """Keys and values of the prompts in every layer; kept while the prompts do not change.

        A text's features are kept while it is in use, so a cut does not encode the negative prompt
        again. Texts are encoded one at a time: in a batch, padding and the order of sums would
        let a prompt's last bits depend on the others.
        """
        wanted = tuple(texts)
        if self.guidance != 1:
            wanted += (self.negative_prompt,) * len(texts)
        if self._embedded is None or self._embedded[0] != wanted:
            self._features = {
                text: self._features[text] if text in self._features else self.text.encode([text])
                for text in dict.fromkeys(wanted)
            }
            rows = torch.cat([self._features[text] for text in wanted])
            self._embedded = (wanted, self.model.embed_text(rows[:, None].to(self.dtype)))
        return self._embedded[1]


def check_seed(seed: int) -> int:
    """The seed as an int. Raises ValueError for what cannot name a stream of noise."""
    gaussian(seed, [], (1,))
    return int(seed)


def _check_image(image: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a first frame that is not the video's."""
    if image is not None and tuple(image.shape) != shape:
        raise ValueError(
            f"the first frame's latents must be {shape} (videos, channels, 1, height, width), got "
            f"{tuple(image.shape)}: they take the place of the first latent frame. "
            f"Encode an image of the video's size for each video."
        )
