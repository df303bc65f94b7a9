"""UMT5 against an independent forward under the published names, and its checkpoint."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from longlive_models.prompts.report import PromptReader, PromptReport
from longlive_models.text import (
    UMT5_XXL,
    TextEncoder,
    UMT5Config,
    UMT5TextEncoder,
    load_published,
    load_tokenizer,
    load_umt5,
)

TINY = UMT5Config(
    vocab_size=40, dim=16, dim_attn=24, dim_ffn=20, num_heads=3, num_layers=2, text_len=12
)


def published_weights(config: UMT5Config, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Random weights under the published names."""
    generator = None if device == "meta" else torch.Generator().manual_seed(0)

    def weight(*shape):
        return torch.randn(shape, generator=generator, device=device) * 0.3

    weights = {
        "token_embedding.weight": weight(config.vocab_size, config.dim),
        "norm.weight": weight(config.dim),
    }
    for i in range(config.num_layers):
        block = {
            "norm1.weight": weight(config.dim),
            "norm2.weight": weight(config.dim),
            "attn.o.weight": weight(config.dim, config.dim_attn),
            "ffn.gate.0.weight": weight(config.dim_ffn, config.dim),
            "ffn.fc1.weight": weight(config.dim_ffn, config.dim),
            "ffn.fc2.weight": weight(config.dim, config.dim_ffn),
            "pos_embedding.embedding.weight": weight(config.num_buckets, config.num_heads),
        }
        block |= {f"attn.{name}.weight": weight(config.dim_attn, config.dim) for name in "qkv"}
        weights |= {f"blocks.{i}.{name}": value for name, value in block.items()}
    return weights


def bucket(distance: int) -> int:
    """32 buckets: 16 per direction, exact below 8, logarithmic up to 128."""
    far = abs(distance)
    if far >= 8:
        far = min(15, 8 + int(math.log(far / 8) / math.log(128 / 8) * 8))
    return far + (16 if distance > 0 else 0)


def reference(config, weights, ids, mask):
    """The UMT5 encoder as its paper and the published names have it."""

    def norm(x, name):
        return weights[name] * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    tokens = ids.shape[1]
    buckets = torch.tensor([[bucket(k - q) for k in range(tokens)] for q in range(tokens)])
    x = weights["token_embedding.weight"][ids]
    for i in range(config.num_layers):
        w = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items()}
        h = norm(x, f"blocks.{i}.norm1.weight")
        q, k, v = (
            (h @ w[f"attn.{name}.weight"].T).unflatten(-1, (config.num_heads, -1)) for name in "qkv"
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k)
        scores = scores + w["pos_embedding.embedding.weight"][buckets].permute(2, 0, 1)
        scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)
        x = x + mixed @ w["attn.o.weight"].T
        h = norm(x, f"blocks.{i}.norm2.weight")
        gate = F.gelu(h @ w["ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (h @ w["ffn.fc1.weight"].T)) @ w["ffn.fc2.weight"].T
    return norm(x, "norm.weight")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A tokenizer of words with UMT5's special tokens, as a local folder."""
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "circle": 5, "&": 6}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tokenizer_folder):
    encoder = UMT5TextEncoder(TINY, load_tokenizer(tokenizer_folder))
    load_published(encoder, published_weights(TINY))
    return encoder


@pytest.mark.parametrize("tokens", [1, 9, 150])
def test_it_computes_what_the_published_weights_mean(encoder, tokens):
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, TINY.vocab_size, (2, tokens), generator=generator)
    mask = torch.arange(tokens) < torch.tensor([[tokens], [max(1, tokens // 2)]])
    want = reference(TINY, published_weights(TINY), ids, mask)
    torch.testing.assert_close(encoder(ids, mask), want, rtol=1e-4, atol=1e-4)


def test_prompts_are_cleaned_ended_and_zero_padded(encoder):
    features = encoder.encode(["a  red &amp;amp; circle", "a"])
    ids = torch.tensor([[3, 4, 6, 5, 1], [3, 1, 0, 0, 0]])
    want = encoder(ids, ids != 0)
    assert features.shape == (2, TINY.text_len, TINY.dim)
    torch.testing.assert_close(features[0, :5], want[0])
    torch.testing.assert_close(features[1, :2], want[1, :2])
    assert (features[0, 5:] == 0).all()
    assert (features[1, 2:] == 0).all()


def test_a_prompt_does_not_depend_on_its_company(encoder):
    alone = encoder.encode(["red"])
    together = encoder.encode(["a red circle a red circle", "red", "red"])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(together[1], together[2])


def test_the_empty_prompt_is_its_end_token(encoder):
    empty = encoder.encode([""])
    assert (empty[0, 0] != 0).any()
    assert (empty[0, 1:] == 0).all()


def test_a_long_prompt_is_cut_to_the_length(encoder):
    features = encoder.encode([" ".join(["red"] * 50)])
    assert features.shape == (1, TINY.text_len, TINY.dim)
    assert (features[0].abs().sum(-1) > 0).all()


def test_what_is_not_taken_of_a_prompt_is_reported(encoder):
    limit = f"{TINY.text_len - 1} tokens"
    assert encoder.read("a  red &amp;amp; circle") == PromptReport(limit=limit)
    assert encoder.read("a cat, a  Cat") == PromptReport(unknown=("cat,", "Cat"), limit=limit)
    long = " ".join(["red"] * (TINY.text_len - 1) + ["a", "circle"])
    assert encoder.read(long) == PromptReport(left_out="a circle", limit=limit)
    assert encoder.read(long.removesuffix(" a circle")) == PromptReport(limit=limit)
    assert isinstance(encoder, PromptReader)
    with pytest.raises(ValueError, match="has no tokenizer"):
        UMT5TextEncoder(TINY).read("a")


def test_it_satisfies_the_protocol(encoder):
    assert isinstance(encoder, TextEncoder)


def test_the_published_file_loads_as_it_is(tmp_path, tokenizer_folder, encoder):
    file = tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(published_weights(TINY), file)
    loaded = load_umt5(file, tokenizer_folder, config=TINY, dtype=torch.float32)
    assert torch.equal(loaded.encode(["a red circle"]), encoder.encode(["a red circle"]))
    assert load_umt5(file, tokenizer_folder, config=TINY).encode(["a"]).dtype == torch.bfloat16


def test_the_embedding_is_held_once(encoder):
    assert encoder.model.shared.weight is encoder.model.encoder.embed_tokens.weight


def test_loaded_weights_are_frozen_and_without_dropout(encoder):
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.model.training


def test_the_full_size_has_the_published_names_shapes_and_count():
    with torch.device("meta"):
        encoder = UMT5TextEncoder(UMT5_XXL)
    weights = published_weights(UMT5_XXL, device="meta")
    assert len(weights) == 242
    load_published(encoder, weights)
    assert sum(p.numel() for p in encoder.parameters()) == 5_680_910_336


def test_other_weights_are_refused_with_the_difference():
    def load(change):
        weights = published_weights(TINY)
        change(weights)
        load_published(UMT5TextEncoder(TINY), weights)

    with pytest.raises(ValueError, match=r"1 missing \['encoder.final_layer_norm.weight'\]"):
        load(lambda weights: weights.pop("norm.weight"))
    with pytest.raises(ValueError, match="1 of another shape.*Pass weights and config of the same"):
        load(lambda weights: weights.update({"norm.weight": torch.zeros(3)}))
    with pytest.raises(ValueError, match="has no weight 'decoder.norm.weight'"):
        load(lambda weights: weights.update({"decoder.norm.weight": torch.zeros(3)}))
    with pytest.raises(ValueError, match="3 too many|10 too many"):
        load(
            lambda weights: weights.update(
                {k.replace("blocks.1", "blocks.2"): v for k, v in weights.items() if "s.1." in k}
            )
        )


def test_prompts_without_a_tokenizer_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer.*load_tokenizer"):
        UMT5TextEncoder(TINY).encode(["a"])
    with pytest.raises(ValueError, match="local folder, got .*nothing is downloaded here"):
        load_tokenizer(tmp_path / "absent")
