"""Features of captions, made once where the text encoder is frozen, and kept beside the latents."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_core.names import few
from longlive_models.checkpoints.tensor_files import read_safetensors
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
from longlive_models.published import find_files
from longlive_models.text import UMT5_XXL, TextEncoder, UMT5Config, load_umt5
from longlive_recipes.data.cache import CacheWriter
from longlive_recipes.data.cache_index import CacheIndex

BATCH = 8
"""Prompts that are encoded together."""

SHARD_PROMPTS = 64
"""Prompts of a file, so that a kill costs no more than these."""


@dataclass(frozen=True, kw_only=True)
class FrozenText:
    """A text encoder whose features are kept, by its files and sizes."""

    weights: Path
    tokenizer: Path
    config: UMT5Config = UMT5_XXL

    @classmethod
    def of(cls, folder: Path) -> "FrozenText":
        """The one of a folder of published files."""
        files = find_files(folder)
        return cls(weights=files.text, tokenizer=files.tokenizer)

    def load(self, device: torch.device) -> TextEncoder:
        """The encoder on its device; in bfloat16, as it is published."""
        return load_umt5(self.weights, self.tokenizer, config=self.config).to(device)


def prompts_of(index: CacheIndex) -> list[str]:
    """What a text encoder is given of a cache's clips, each once, the empty prompt first."""
    every = (
        SCENE_CUT_PREFIX + caption if cut else caption
        for clip in index.clips
        for caption, cut in zip(clip.captions, clip.cuts, strict=True)
    )
    return list(dict.fromkeys(("", *every)))


@torch.no_grad()
def keep_features(
    cache: CacheWriter,
    load: Callable[[], TextEncoder],
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> int:
    """Encode the prompts of a cache's clips that it has no features of; how many that were.

    A file of features is finished every so many prompts: after a kill or a full disk the rest is
    encoded.
    """
    wanted = [prompt for prompt in prompts_of(cache.index) if prompt not in cache.index.prompts]
    encoder = load() if wanted else None
    for first in range(0, len(wanted), SHARD_PROMPTS):
        progress(first, len(wanted), wanted[first])
        features: dict[str, tuple[str, Tensor]] = {}
        some = wanted[first : first + SHARD_PROMPTS]
        for start in range(0, len(some), BATCH):
            assert encoder is not None
            batch = some[start : start + BATCH]
            made = encoder.encode(batch).to("cpu", torch.bfloat16)
            for prompt, rows in zip(batch, made, strict=True):
                features[prompt] = feature_key(prompt), _without_padding(rows)
        cache.add_prompts(features)
    return len(wanted)


def feature_key(prompt: str) -> str:
    """The name of a prompt's features in their file."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def _without_padding(features: Tensor) -> Tensor:
    """The rows up to the last that is not zero; one at least."""
    rows = features.ne(0).any(1).nonzero().flatten()
    return features[: int(rows[-1]) + 1 if len(rows) else 1].clone()


class PromptTable(nn.Module):
    """The features of a cache's prompts, in the place of the frozen encoder that made them.

    Args:
        features: of each prompt, bfloat16 [tokens, width]; they are held on the CPU.
        text_len: rows that a prompt has with its padding.
        text_dim: their width.
    """

    def __init__(self, features: Mapping[str, Tensor], text_len: int, text_dim: int) -> None:
        super().__init__()
        self.text_len, self.text_dim = text_len, text_dim
        self._number = {prompt: number for number, prompt in enumerate(features)}
        self._rows = list(features.values())

    @classmethod
    def of_cache(cls, cache: Path, index: CacheIndex, config: UMT5Config) -> "PromptTable":
        """The features of a cache.

        Raises:
            ValueError: a file is damaged, or holds features of another width or length.
        """
        held = {shard: read_safetensors(cache / shard) for shard in set(index.prompts.values())}
        features = {}
        for prompt, shard in index.prompts.items():
            row = held[shard].get(feature_key(prompt))
            if row is None or row.shape[0] > config.text_len or row.shape[1] != config.dim:
                found = "none" if row is None else f"{row.shape[0]} rows of {row.shape[1]}"
                raise ValueError(
                    f"{cache / shard} has for {prompt!r} {found}, and the text encoder gives up to "
                    f"{config.text_len} rows of {config.dim}: it was changed, or is of another "
                    f"encoder. Run `longlive data prepare` again."
                )
            features[prompt] = row
        return cls(features, config.text_len, config.dim)

    def tokenize(self, prompts: Iterable[str]) -> Tensor:
        """The numbers of prompts, int64 [prompts, 1] on the CPU. Raises ValueError for others."""
        wanted = list(prompts)
        if missing := [prompt for prompt in wanted if prompt not in self._number]:
            raise ValueError(
                f"the cache has no features of {few(missing)}: the text encoder that makes them is "
                f"not part of the run. Use captions of the clips, or run `longlive data prepare`."
            )
        numbers = [[self._number[prompt]] for prompt in wanted]
        return torch.tensor(numbers, dtype=torch.int64, device="cpu").view(-1, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Features [prompts, text_len, width] of numbers [prompts, 1], on the numbers' device."""
        numbers = ids.flatten().tolist()
        features = torch.zeros(
            len(numbers), self.text_len, self.text_dim, dtype=torch.bfloat16, device="cpu"
        )
        for place, number in enumerate(numbers):
            row = self._rows[number]
            features[place, : len(row)] = row
        return features.to(ids.device)

    def encode(self, prompts: Iterable[str]) -> Tensor:
        """Features of prompts of the cache, in float32 on the CPU."""
        return self(self.tokenize(prompts)).float()
