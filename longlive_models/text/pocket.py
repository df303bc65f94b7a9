"""A small text encoder that trains together with its model: words, positions, a few layers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from longlive_core.checks import hold_wholes
from longlive_models.prompts.report import PromptReport
from longlive_models.schema import build
from longlive_models.text.encoder import encode_distinct, zero_padding
from longlive_models.text.tokenizer import WordTokenizer


@dataclass(frozen=True, kw_only=True)
class PocketTextConfig:
    """Sizes of a PocketTextEncoder; ``vocab`` lists its words, the special tokens left out."""

    vocab: tuple[str, ...]
    dim: int = 192
    text_len: int = 32
    num_layers: int = 2
    num_heads: int = 4
    ffn_dim: int = 256

    def __post_init__(self) -> None:
        sizes = "dim text_len num_layers num_heads ffn_dim"
        why = "an encoder has one or more of each. Take the sizes from the model's files."
        hold_wholes(self, sizes, at_least=1, at_most=2**16, why=why)
        hold_wholes(self, "num_layers", at_least=1, at_most=2**10, why=why)
        if self.dim % self.num_heads:
            raise ValueError(
                f"PocketTextConfig needs dim divisible by num_heads, got dim={self.dim} and "
                f"num_heads={self.num_heads}: heads are of equal size. "
                f"Use dim={self.dim - self.dim % self.num_heads}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return {**asdict(self), "vocab": list(self.vocab)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PocketTextConfig":
        """The config that ``to_dict`` gave; ValueError for an unknown key or a missing vocab."""
        return build(cls, values, "")


class PocketTextEncoder(nn.Module):
    """Word embeddings and learned positions through pre-norm transformer layers.

    Every prompt ends with an end token, so the empty prompt has one row of its own.
    """

    def __init__(self, config: PocketTextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = WordTokenizer(config.vocab, config.text_len)
        self.embedding = nn.Embedding(len(self.tokenizer), config.dim, dtype=torch.float32)
        self.position = nn.Parameter(
            torch.randn(config.text_len, config.dim, dtype=torch.float32) * 0.02
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim, dtype=torch.float32)

    @property
    def text_len(self) -> int:
        """Rows of features per prompt."""
        return self.config.text_len

    @property
    def text_dim(self) -> int:
        """Size of one row."""
        return self.config.dim

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "prompts text_len"]:
        """Token numbers of each prompt, int64 on the CPU, padded to ``text_len``."""
        return self.tokenizer.tokenize(prompts)

    @property
    def known_words(self) -> tuple[str, ...]:
        """All words that the encoder knows."""
        return self.tokenizer.known_words

    def read(self, prompt: str) -> PromptReport:
        """Report what the encoder leaves out: unknown words, and words past its limit."""
        return self.tokenizer.read(prompt)

    def forward(
        self, ids: Int[Tensor, "prompts text_len"]
    ) -> Float[Tensor, "prompts text_len text_dim"]:
        """Features of token numbers; padding is not attended to and its rows are 0."""
        mask = ids != WordTokenizer.PAD
        x = self.embedding(ids) + self.position
        for layer in self.layers:
            x = layer(x, mask)
        return zero_padding(self.norm(x), mask, self.text_len)

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "prompts text_len text_dim"]:
        """Features of each prompt on the encoder's device; distinct prompts run once.

        Differentiable, so that the encoder can be trained through it.
        """
        device = self.position.device
        return encode_distinct(prompts, lambda texts: self(self.tokenize(texts).to(device)))


class _Layer(nn.Module):
    """Self-attention and a two-layer network, each on a normalized input and with a residual."""

    def __init__(self, config: PocketTextConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.dim, dtype=torch.float32)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, dtype=torch.float32)
        self.out = nn.Linear(config.dim, config.dim, dtype=torch.float32)
        self.ffn_norm = nn.LayerNorm(config.dim, dtype=torch.float32)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim, dtype=torch.float32),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim, dtype=torch.float32),
        )

    def forward(
        self, x: Float[Tensor, "prompts tokens dim"], mask: Bool[Tensor, "prompts tokens"]
    ) -> Float[Tensor, "prompts tokens dim"]:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.ffn(self.ffn_norm(x))
