"""The UMT5 encoder of Wan2.2 and LongLive-2.0, through transformers' own class.

transformers is imported when an encoder is built, not when this module is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from longlive_core.checks import hold_wholes, shown
from longlive_models.checkpoints.tensor_files import why_missing
from longlive_models.documents import read_json
from longlive_models.prompts.report import PromptReport
from longlive_models.text.encoder import encode_distinct, zero_padding
from longlive_models.text.tokenizer import clean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class UMT5Config:
    """Sizes of a UMT5 encoder; every layer has its own table of relative position biases."""

    vocab_size: int
    dim: int
    dim_attn: int
    dim_ffn: int
    num_heads: int
    num_layers: int
    num_buckets: int = 32
    max_distance: int = 128
    text_len: int = 512

    def __post_init__(self) -> None:
        sizes = " ".join(field.name for field in fields(self))
        why = "an encoder has one or more of each. Take the sizes from the model's files."
        hold_wholes(self, sizes, at_least=1, at_most=2**20, why=why)
        hold_wholes(self, "num_layers", at_least=1, at_most=2**10, why=why)
        if self.dim_attn % self.num_heads:
            raise ValueError(
                f"UMT5Config.dim_attn is a multiple of num_heads, got {self.dim_attn} for "
                f"{self.num_heads}: heads are of one width."
            )


UMT5_XXL = UMT5Config(
    vocab_size=256384, dim=4096, dim_attn=4096, dim_ffn=10240, num_heads=64, num_layers=24
)
"""The encoder of Wan2.2: 5,680,910,336 parameters."""


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a local folder (``google/umt5-xxl`` in the published files).

    Raises:
        ValueError: the folder is missing or has no tokenizer, or one that would run code of the
            folder, or one without a padding token.
    """
    from transformers import AutoTokenizer

    if not Path(folder).is_dir():
        raise ValueError(
            f"a UMT5 tokenizer is read from a local folder, got {str(folder)!r}, which is none: "
            f"nothing is downloaded here. Pass the folder 'google/umt5-xxl' of the published files."
        )
    require_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the class itself is what the package tokenizers raises
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            reason = "tokenizer_config.json names code of the folder, which is not run"
        raise ValueError(
            f"no tokenizer can be made of the files in {folder} ({shown(reason, 120)}). "
            f"{_PUBLISHED}"
        ) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer in {folder} has no token that pads, and prompts of one batch are made "
            f"of equal length: tokenizer_config.json, which names it, is not there or of another "
            f"tokenizer. {_PUBLISHED}"
        )
    return tokenizer


_PUBLISHED = "Take all files of the folder 'google/umt5-xxl' of the published model."


def require_tokenizer(folder: str | Path) -> None:
    """Raise ValueError unless a folder has the JSON of a tokenizer."""
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        if (file.parent / "spiece.model").is_file():
            raise ValueError(
                f"{file.parent} holds spiece.model without {file.name}: what is made of it depends "
                f"on the packages that convert it, so it is not read. {_PUBLISHED}"
            )
        raise ValueError(f"{file.parent} holds no {file.name}: {why_missing(file)} {_PUBLISHED}")
    content = read_json(file, "a tokenizer")
    if not isinstance(content.get("model"), dict):
        raise ValueError(f"{file} is no tokenizer: it has no 'model' of tokens. {_PUBLISHED}")


class UMT5TextEncoder(nn.Module):
    """The text encoder of LongLive-2.0: UMT5 with its tokenizer.

    The tokenizer may be left out if only token numbers are encoded. Prompts with more than
    ``text_len`` tokens are cut there; ``read`` reports what is lost. Weights start random; to load
    them see ``checkpoint.load_umt5``.
    """

    def __init__(
        self, config: UMT5Config, tokenizer: "PreTrainedTokenizerBase | None" = None
    ) -> None:
        from transformers import UMT5Config as TransformersConfig
        from transformers import UMT5EncoderModel

        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        sizes = TransformersConfig(
            vocab_size=config.vocab_size,
            d_model=config.dim,
            d_kv=config.dim_attn // config.num_heads,
            d_ff=config.dim_ffn,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            relative_attention_num_buckets=config.num_buckets,
            relative_attention_max_distance=config.max_distance,
            feed_forward_proj="gated-gelu",
            layer_norm_epsilon=1e-6,
        )
        self.model = UMT5EncoderModel(sizes).eval().requires_grad_(False)
        self.model.set_attn_implementation("eager")  # rounds bfloat16 where the original does

    @property
    def text_len(self) -> int:
        """Rows of features per prompt."""
        return self.config.text_len

    @property
    def text_dim(self) -> int:
        """Size of one row."""
        return self.config.dim

    @property
    def known_words(self) -> tuple[str, ...]:
        """None: the tokenizer knows pieces, from which any word can be made."""
        return ()

    def read(self, prompt: str) -> PromptReport:
        """Report what the encoder leaves out: words without a piece, and tokens past its limit.

        Raises ValueError if the encoder was built without a tokenizer.
        """
        tokenizer = self._require_tokenizer()
        text = clean(prompt)
        ids = tokenizer(text, verbose=False)["input_ids"]
        unknown = tokenizer.unk_token_id
        return PromptReport(
            unknown=tuple(
                dict.fromkeys(
                    word
                    for word in (text.split() if unknown in ids else ())
                    if unknown in tokenizer(word, verbose=False)["input_ids"]
                )
            ),
            left_out=""
            if len(ids) <= self.text_len
            else str(tokenizer.decode(ids[self.text_len - 1 : -1])),
            limit=f"{self.text_len - 1} tokens",
        )

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, which run one after another."""
        blocks = self.model.encoder.block
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def tables(self) -> tuple[nn.Module, ...]:
        """The table of tokens, a third of a gigabyte for each 40,000: rows are looked up in it."""
        return (self.model.get_input_embeddings(),)

    def _require_tokenizer(self) -> "PreTrainedTokenizerBase":
        if self.tokenizer is None:
            raise ValueError(
                "this UMT5 encoder has no tokenizer, so it takes token numbers, got prompts. "
                "Build it with tokenizer=load_tokenizer(folder)."
            )
        return self.tokenizer

    def forward(
        self, ids: Int[Tensor, "prompts tokens"], mask: Bool[Tensor, "prompts tokens"]
    ) -> Float[Tensor, "prompts tokens dim"]:
        """Features of all tokens, where ``mask`` is. Tokens outside it are not attended to."""
        table = self.model.get_input_embeddings()
        rows = table(ids.to(table.weight.device)).to(mask.device)
        return self.model(inputs_embeds=rows, attention_mask=mask.long()).last_hidden_state

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "prompts text_len text_dim"]:
        """Features of each prompt on the encoder's device; distinct prompts run once.

        Raises ValueError if the encoder was built without a tokenizer.
        """
        return encode_distinct(prompts, self._encode)

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        tokens = self._require_tokenizer()(
            [clean(text) for text in texts],
            padding="longest",
            truncation=True,
            max_length=self.text_len,
            return_tensors="pt",
        )
        device = self.model.encoder.final_layer_norm.weight.device  # of the layers while they run
        mask = tokens["attention_mask"].to(device).bool()
        return zero_padding(self(tokens["input_ids"], mask), mask, self.text_len)
