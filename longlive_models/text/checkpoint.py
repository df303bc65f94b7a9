"""Loading UMT5 weights under their published names (`models_t5_umt5-xxl-enc-bf16.pth`)."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from longlive_models.checkpoints.folder import unfilled
from longlive_models.checkpoints.tensor_files import read_tensors
from longlive_models.text.umt5 import UMT5_XXL, UMT5Config, UMT5TextEncoder, load_tokenizer

_OUTSIDE_BLOCKS = {
    "token_embedding.weight": "shared.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
}
_INSIDE_BLOCK = {
    "norm1.weight": "0.layer_norm.weight",
    "attn.q.weight": "0.SelfAttention.q.weight",
    "attn.k.weight": "0.SelfAttention.k.weight",
    "attn.v.weight": "0.SelfAttention.v.weight",
    "attn.o.weight": "0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "1.layer_norm.weight",
    "ffn.gate.0.weight": "1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "1.DenseReluDense.wo.weight",
}
_BLOCK_KEY = re.compile(r"blocks\.(\d+)\.(.+)")


def transformers_key(published: str) -> str:
    """The name that transformers' UMT5EncoderModel has for a published weight.

    Raises ValueError for a name that a UMT5 encoder does not have.
    """
    if published in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[published]
    match = _BLOCK_KEY.fullmatch(published)
    if match is None or match[2] not in _INSIDE_BLOCK:
        raise ValueError(
            f"a UMT5 encoder has no weight {published!r}: its names are token_embedding.weight, "
            f"norm.weight and blocks.<i>.<part>. Pass the published encoder weights."
        )
    return f"encoder.block.{match[1]}.layer.{_INSIDE_BLOCK[match[2]]}"


def published_shapes(config: UMT5Config) -> dict[str, tuple[int, ...]]:
    """The shapes of an encoder's weights by their published names."""
    dim, inner, hidden = config.dim, config.dim_attn, config.dim_ffn
    block: dict[str, tuple[int, ...]] = {
        "norm1.weight": (dim,),
        "norm2.weight": (dim,),
        **{f"attn.{name}.weight": (inner, dim) for name in "qkv"},
        "attn.o.weight": (dim, inner),
        "pos_embedding.embedding.weight": (config.num_buckets, config.num_heads),
        "ffn.gate.0.weight": (hidden, dim),
        "ffn.fc1.weight": (hidden, dim),
        "ffn.fc2.weight": (dim, hidden),
    }
    return {
        "token_embedding.weight": (config.vocab_size, dim),
        "norm.weight": (dim,),
        **{
            f"blocks.{number}.{name}": shape
            for number in range(config.num_layers)
            for name, shape in block.items()
        },
    }


def load_published(encoder: UMT5TextEncoder, weights: Mapping[str, Tensor]) -> None:
    """Load published weights into ``encoder``, in place; their type and device stay as they are.

    The encoder may be on the meta device; nothing is copied. Raises ValueError if a name is
    unknown, missing, or has another shape.
    """
    state = {transformers_key(name): tensor for name, tensor in weights.items()}
    if "shared.weight" in state:  # one tensor under two names
        state["encoder.embed_tokens.weight"] = state["shared.weight"]
    expected = encoder.model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    reshaped = sorted(
        f"{name} {list(state[name].shape)} for {list(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    )
    if missing or extra or reshaped:
        raise ValueError(
            f"these are not the weights of this UMT5 encoder: {len(missing)} missing "
            f"{missing[:3]}, {len(extra)} too many {extra[:3]}, {len(reshaped)} of another shape "
            f"{reshaped[:3]}. Pass weights and config of the same encoder."
        )
    encoder.model.load_state_dict(state, assign=True)
    encoder.model.set_input_embeddings(encoder.model.get_input_embeddings())
    encoder.model.eval().requires_grad_(False)


def load_umt5(
    weights: str | Path | Mapping[str, Tensor],
    tokenizer: str | Path,
    *,
    config: UMT5Config = UMT5_XXL,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> UMT5TextEncoder:
    """Load the encoder of the published files: a local weight file and a local tokenizer folder.

    ``weights`` may also be the tensors by published names. The pickle is read with
    ``weights_only=True``, and mapped rather than copied. Raises ValueError for files that are
    incomplete or of another kind.
    """
    state = weights if isinstance(weights, Mapping) else read_tensors(weights)
    words = load_tokenizer(tokenizer)
    if len(words) > config.vocab_size:
        raise ValueError(
            f"the tokenizer in {tokenizer} has {len(words):,} tokens, the encoder takes "
            f"{config.vocab_size:,}: they are of different models. Take both from one place."
        )
    with unfilled():
        encoder = UMT5TextEncoder(config, words)
    load_published(encoder, state)
    return encoder.to(device=device, dtype=dtype)
