"""The protocol of text encoders, and functions that all of them share."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """A text encoder: turns each prompt into the same number of rows of features."""

    @property
    def text_len(self) -> int:
        """Rows of features per prompt."""

    @property
    def text_dim(self) -> int:
        """Size of one row."""

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "prompts text_len text_dim"]:
        """Return the features of each prompt; rows after a prompt's tokens are 0.

        The empty prompt is the unconditional one. Rows of zeros are attended to like all others,
        since the transformer was trained without a text mask.
        """


def encode_distinct(
    prompts: Sequence[str], encode: Callable[[list[str]], Tensor]
) -> Float[Tensor, "prompts text_len text_dim"]:
    """Encode every distinct prompt once, and return the features of each prompt.

    Raises ValueError if there are no prompts, or if ``prompts`` is a text rather than a list.
    """
    if isinstance(prompts, str):
        raise ValueError(
            f"encode needs a list of prompts, got the text {prompts!r}: its letters would be taken "
            f"for prompts. Pass [{prompts!r}]."
        )
    if not prompts:
        raise ValueError(
            "encode needs at least one prompt, got none. Pass [''] for the unconditional features."
        )
    distinct = list(dict.fromkeys(prompts))
    features = encode(distinct)
    if len(distinct) == len(prompts):
        return features
    place = {prompt: row for row, prompt in enumerate(distinct)}
    rows = [place[prompt] for prompt in prompts]
    return features[torch.tensor(rows, dtype=torch.int64, device=features.device)]


def zero_padding(
    features: Float[Tensor, "prompts tokens text_dim"],
    mask: Bool[Tensor, "prompts tokens"],
    text_len: int,
) -> Float[Tensor, "prompts text_len text_dim"]:
    """Set rows outside ``mask`` to 0, and add rows of 0 up to ``text_len``."""
    kept = features.masked_fill(~mask[..., None], 0)
    return torch.nn.functional.pad(kept, (0, 0, 0, text_len - features.shape[1]))
