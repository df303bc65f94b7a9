"""Block by block: noise, a few denoising steps against the cache, one clean pass that fills it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.kv_cache import PagedKVCache
from longlive_core.noise import gaussian
from longlive_models.diffusion import UniPCSchedule, guide, unipc
from longlive_models.shots import BlockPrompt, PromptSchedule
from longlive_models.text import TextEncoder
from longlive_models.wan import TextContext, WanTransformer


@dataclass(frozen=True, slots=True, eq=False)
class LatentBlock:
    """One generated block.

    Attributes:
        index: which block of the video it is.
        latents: float32 [batch, channels, frames, height, width], normalised.
        prompt: what it was asked to show; of a batch, what its first video was.
    """

    index: int
    latents: Float[Tensor, "batch channels frames height width"]
    prompt: BlockPrompt


class BlockGenerator:
    """Generates the latents of one video, or of several with the same cuts side by side.

    Under guidance the cache holds two samples for each video: first those of the prompts, then
    those of the negative prompt; ``cache.layout.samples`` is twice the number of videos. Without
    guidance (1) there is no second half, and the negative prompt is not even encoded.
    See LongLive-2.0 (arXiv 2605.18739), autoregressive inference.

    Args:
        model: in evaluation mode, on its device.
        text: encodes prompts, each on its own, so that no prompt depends on its neighbours.
        cache: empty, with a sample for each video and guidance branch.
        sampler: the steps of a block.
        latent_size: latent (height, width).
        seeds: one of each video; noise depends on (seed, latent frame) alone.
        guidance: 1 follows the prompt as trained; more follows it more strongly.
        negative_prompt: what guidance moves away from.
        t_scale: multiplies temporal positions.
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
    ) -> None:
        branches = 1 if guidance == 1 else 2
        if not seeds or cache.layout.samples != branches * len(seeds):
            raise ValueError(
                f"the cache holds {cache.layout.samples} samples, but {len(seeds)} videos with "
                f"guidance {guidance} need {branches * len(seeds)}: build the CacheLayout with "
                f"one sample for each video and branch, and give one seed or more."
            )
        for seed in seeds:
            check_seed(seed)
        self.model = model
        self.text = text
        self.cache = cache
        self.sampler = sampler
        self.latent_size = latent_size
        self.seeds = tuple(seeds)
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.t_scale = t_scale
        self._features: dict[str, Tensor] = {}
        self._embedded: tuple[tuple[str, ...], TextContext] | None = None

    def blocks(self, schedules: Sequence[PromptSchedule], count: int) -> Iterator[LatentBlock]:
        """Generate blocks 0 .. ``count`` - 1; ``schedules`` has one entry for each video."""
        for index in range(count):
            yield self.generate(index, [schedule.block(index) for schedule in schedules])

    @torch.no_grad()
    def generate(self, index: int, prompts: Sequence[BlockPrompt]) -> LatentBlock:
        """Denoise block ``index``, write it to the cache, and return it.

        Raises:
            ValueError: not one prompt a video, or cuts that are not the same in all of them.
        """
        self._check(index, prompts)
        frames_per_block = self.model.config.frames_per_block
        frames = range(index * frames_per_block, (index + 1) * frames_per_block)
        noise = self._noise(frames)
        offset = prompts[0].offset
        positions = torch.tensor([frame + offset for frame in frames], device=noise.device)
        text = self._embed([prompt.text for prompt in prompts])
        self.cache.begin_block(index)

        def velocity(latents: Tensor, timestep: float, *, remember: bool = False) -> Tensor:
            branches = torch.cat([latents, latents]) if self.guidance != 1 else latents
            timesteps = noise.new_full((len(branches), len(frames)), timestep)
            return self.model(
                branches.to(self.dtype),
                timesteps,
                text,
                positions=positions,
                t_scale=self.t_scale,
                memory=self.cache,
                remember=remember,
            )

        def denoise(latents: Tensor, timestep: float) -> Tensor:
            predicted = velocity(latents, timestep)
            if self.guidance == 1:
                return predicted
            conditional, unconditional = predicted.chunk(2)
            return guide(conditional, unconditional, self.guidance)

        latents = unipc(denoise, noise, self.sampler)
        velocity(latents, 0.0, remember=True)
        self.cache.commit()
        if prompts[0].cut:
            self.cache.start_shot()
        return LatentBlock(index, latents, prompts[0])

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
        if len({(prompt.cut, prompt.offset) for prompt in prompts}) > 1:
            raise ValueError(
                f"the videos of one batch must be cut at the same blocks, but block {index} "
                f"differs among them: the cache has one shot anchor. Generate them one by one."
            )

    def _noise(self, frames: range) -> Float[Tensor, "batch channels frames height width"]:
        shape = (self.model.config.in_channels, *self.latent_size)
        device = self.model.patch_embedding.weight.device
        videos = [gaussian(seed, frames, shape, device=device) for seed in self.seeds]
        return torch.stack(videos).transpose(1, 2)

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


def check_seed(seed: int) -> None:
    """Raise ValueError for a number that cannot name a stream of noise."""
    gaussian(seed, [], (1,))
