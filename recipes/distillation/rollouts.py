"""A student's own videos of drawn prompts, through the generator and the cache of inference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_models.diffusion import BlockSampler
from longlive_models.generator import BlockGenerator
from longlive_models.objectives import Rollout, self_rollout
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX, BlockPrompt
from longlive_models.text import TextEncoder
from longlive_models.wan import ParallelTransformer, WanTransformer

Noise = Callable[[], Tensor]


class PromptBook:
    """A text encoder that has read a batch of prompts together, and looks each up from then on."""

    def __init__(
        self, text: TextEncoder, prompts: Sequence[Sequence[str]], device: torch.device
    ) -> None:
        self.text_len, self.text_dim = text.text_len, text.text_dim
        known = list(dict.fromkeys(prompt for some in prompts for prompt in some))
        self._rows = text.encode(known).detach().to(device)
        self._places = {prompt: place for place, prompt in enumerate(known)}

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "prompts text_len text_dim"]:
        """The features of prompts that were read."""
        places = [self._places[prompt] for prompt in prompts]
        return self._rows[torch.tensor(places, dtype=torch.int64, device=self._rows.device)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What a batch of videos is asked to show; student, teacher and critic get the same.

    Attributes:
        prompts: of each of this rank's videos, one a block.
        cuts: the blocks of all videos that begin with a cut.
        text: the prompts' features, [videos, blocks, length, width].
        book: has read them.
        how: ``mask`` and ``positions`` of the scores.
    """

    prompts: Sequence[tuple[str, ...]]
    cuts: tuple[bool, ...]
    text: Tensor
    book: PromptBook
    how: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClipPrompts:
    """The prompts of a clip as a video's: a PromptSchedule.

    Attributes:
        prompts: of each block, with the prefix of a cut where it has one.
        cuts: where a block begins with a cut.
        shot_offset: latent frames that a cut adds to positions.
    """

    prompts: tuple[str, ...]
    cuts: tuple[bool, ...]
    shot_offset: float

    def block(self, index: int) -> BlockPrompt:
        """The prompt of block ``index``."""
        shot = sum(self.cuts[: index + 1])
        return BlockPrompt(
            text=self.prompts[index],
            shot=shot,
            cut=self.cuts[index],
            offset=shot * self.shot_offset,
        )


class RolloutGenerator(BlockGenerator):
    """Inference's generator with the noise of training, which a device draws in one call.

    Noise by seed and frame is the same on every device, and slow to draw for a batch of many
    videos at every step.
    """

    def __init__(self, *given: Any, draw: Noise, **how: Any) -> None:
        super().__init__(*given, **how)
        self._draw = draw

    def _noise(self, block: int, step: int = 0) -> Tensor:
        return self._draw()


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How a student's videos are made.

    Attributes:
        sampler: its sampler, with the steps of each block.
        window: which pages a block sees.
        latent_size: (height, width) of latents.
        shot_offset: latent frames that a cut adds to positions.
    """

    sampler: BlockSampler
    window: Window
    latent_size: tuple[int, int]
    shot_offset: float

    def make(
        self,
        student: WanTransformer,
        text: TextEncoder,
        prompts: Sequence[Sequence[str]],
        cuts: Sequence[bool],
        *,
        exit_steps: Sequence[int],
        draw: Noise,
        trained_blocks: int | None = None,
        on_trained: Callable[[int, Tensor], None] | None = None,
    ) -> Rollout:
        """Videos of ``prompts``, all cut at the same blocks; see ``self_rollout``.

        Args:
            student: of one rank alone, or shared by ranks, which then make the same videos
                together.
            text: encodes the prompts, such as a PromptBook.
            prompts: of each video, one a block, with the prefix where it is cut.
            cuts: where a block begins with a cut.
            exit_steps: of each block, the step that makes it.
            draw: gives noise of a block of all videos, [videos, C, F, Y, X] in float32.
            trained_blocks, on_trained: see ``self_rollout``.
        """
        device = student.patch_embedding.weight.device
        wan = student.config
        heads = wan.num_heads
        if isinstance(student, ParallelTransformer):
            heads = len(student.sp.heads)
        layout = CacheLayout(
            layers=wan.num_layers,
            heads=heads,
            head_dim=wan.head_dim,
            tokens_per_page=wan.frames_per_block * wan.tokens_per_frame(*self.latent_size),
            samples=len(prompts),
        )
        generator = RolloutGenerator(
            student,
            text,
            PagedKVCache(layout, self.window, PlainCodec(computed_in(student)), device),
            sampler=self.sampler,
            latent_size=self.latent_size,
            seeds=range(len(prompts)),
            draw=draw,
        )
        schedules = [
            ClipPrompts(prompts=tuple(one), cuts=tuple(cuts), shot_offset=self.shot_offset)
            for one in prompts
        ]
        return self_rollout(
            generator,
            schedules,
            exit_steps=exit_steps,
            trained_blocks=trained_blocks,
            on_trained=on_trained,
        )


def lengthened(prompts: tuple[str, ...], blocks: int) -> tuple[str, ...]:
    """The prompts of a video's blocks, of those of a clip, which may be shorter."""
    last = prompts[-1].removeprefix(SCENE_CUT_PREFIX)
    return (*prompts, *[last] * (blocks - len(prompts)))[:blocks]


def computed_in(model: WanTransformer) -> torch.dtype:
    """The type that a model's keys and values have: that of autocast, or of its weights."""
    weight = model.patch_embedding.weight
    if torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype
