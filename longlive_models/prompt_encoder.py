"""The keys and values that a transformer makes of prompts, kept until the prompts change."""

import torch
from torch import Tensor

from longlive_models.text import TextEncoder
from longlive_models.wan import TextContext, WanTransformer


class PromptEncoder:
    """Keys and values of the prompts of several videos, in every layer of a transformer.

    A text's features are kept while it is in use, so a cut does not encode the negative prompt
    again. Texts are encoded one at a time: in a batch, padding and the order of sums would let a
    prompt's last bits depend on the others.

    Args:
        model: the transformer, whose cross-attention makes the keys and values.
        text: the text encoder.
        negative: the negative prompt; None without guidance. Under guidance its samples, as many
            as there are prompts, follow those of the prompts.
    """

    def __init__(self, model: WanTransformer, text: TextEncoder, negative: str | None) -> None:
        self.model = model
        self.text = text
        self.negative = negative
        self._features: dict[str, Tensor] = {}
        self._encoded: tuple[tuple[str, ...], TextContext] | None = None

    def encode(self, prompts: list[str]) -> TextContext:
        """Keys and values of one prompt for each video; computed only if the prompts changed."""
        wanted = self._texts(prompts)
        if self._encoded is None or self._encoded[0] != wanted:
            self._encoded = (wanted, self.encode_again(prompts))
        return self._encoded[1]

    def encode_again(self, prompts: list[str]) -> TextContext:
        """As ``encode``, but always computed anew, with gradients if they are enabled."""
        return self.model.embed_text(self._of(self._texts(prompts)))

    @torch.no_grad()
    def _of(self, texts: tuple[str, ...]) -> Tensor:
        """The features of each sample, [samples, 1, length, width], in the transformer's type."""
        self._features = {
            text: self._features[text] if text in self._features else self.text.encode([text])
            for text in dict.fromkeys(texts)
        }
        rows = torch.cat([self._features[text] for text in texts])
        weight = self.model.patch_embedding.weight
        return rows[:, None].to(weight.device, weight.dtype)

    def _texts(self, prompts: list[str]) -> tuple[str, ...]:
        negatives = () if self.negative is None else (self.negative,) * len(prompts)
        return (*prompts, *negatives)
