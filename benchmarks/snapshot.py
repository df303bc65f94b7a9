"""Writes a folder as LongLive-2.0-5B is published, of any sizes, with random weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from longlive_models.checkpoints.folder import unfilled
from longlive_models.text import UMT5Config
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig, WanTransformer

STRENGTH = 0.02


def write_snapshot(folder: Path, wan: WanConfig, vae: VAEConfig, text: UMT5Config) -> None:
    """Write the transformer, the VAE, the text encoder and a tokenizer of three words.

    A ``config.json`` says the transformer's layers: without it one as wide as the published model
    and with fewer of them is refused as a file that is not whole.
    """
    drawn = Drawn()
    with unfilled():
        of_wan = shapes(WanTransformer(wan).state_dict())
        of_vae = shapes(WanVAE(vae).state_dict())
    state = {f"model.{name}": drawn(shape) for name, shape in of_wan.items()}
    torch.save({"generator": state}, folder / "model_bf16.pt")
    said = {"dim": wan.dim, "num_layers": wan.num_layers}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    del state
    sizes = {"dim": wan.dim, "num_layers": wan.num_layers}  # else fewer blocks were lost ones
    (folder / "config.json").write_text(json.dumps(sizes))
    torch.save({n: drawn(s).float() for n, s in of_vae.items()}, folder / "Wan2.2_VAE.pth")
    encoder = folder / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save({name: drawn(shape) for name, shape in of_text(text).items()}, encoder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "google" / "umt5-xxl")


class Drawn:
    """Draws weights: pieces of a million numbers, which begin at another one for each of them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        numbers = torch.randn((1 << 20) + 7, generator=generator)
        self._numbers, self._begin = (numbers * STRENGTH).bfloat16(), 0

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """Weights of a shape, bfloat16."""
        self._begin = (self._begin + 7919) % len(self._numbers)
        count = torch.Size(shape).numel()
        pieces = -(-count // len(self._numbers))
        return self._numbers.roll(self._begin).repeat(pieces)[:count].view(*shape)


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of every weight."""
    return {name: value.shape for name, value in state.items()}


def of_text(text: UMT5Config) -> dict[str, Sequence[int]]:
    """The published names and shapes of the text encoder's weights."""
    named: dict[str, Sequence[int]] = {
        "token_embedding.weight": (text.vocab_size, text.dim),
        "norm.weight": (text.dim,),
    }
    for layer in range(text.num_layers):
        block = f"blocks.{layer}."
        named |= {
            f"{block}norm1.weight": (text.dim,),
            f"{block}norm2.weight": (text.dim,),
            **{f"{block}attn.{name}.weight": (text.dim_attn, text.dim) for name in "qkv"},
            f"{block}attn.o.weight": (text.dim, text.dim_attn),
            f"{block}ffn.gate.0.weight": (text.dim_ffn, text.dim),
            f"{block}ffn.fc1.weight": (text.dim_ffn, text.dim),
            f"{block}ffn.fc2.weight": (text.dim, text.dim_ffn),
            f"{block}pos_embedding.embedding.weight": (text.num_buckets, text.num_heads),
        }
    return named
