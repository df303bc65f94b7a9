"""The published layout, with fake files of a tiny model: they assemble, or what lacks is named."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from longlive_core.nvfp4 import NVFP4Linear, QuantizeConfig, dequantize, quantize
from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.checkpoints.nvfp4 import PackedConfig, packed_state, write_published
from longlive_models.loading import load_original
from longlive_models.precision import stored_precision
from longlive_models.published import BASE, LONGLIVE_5B, TEXT, TOKENIZER, VAE, find_files
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text import UMT5Config
from longlive_models.wan import WanTransformer
from tests.models.tiny_pipeline import SPEC, tiny_parts

UMT5 = UMT5Config(
    vocab_size=12, dim=10, dim_attn=12, dim_ffn=14, num_heads=3, num_layers=1, text_len=7
)
TINY = replace(SPEC, transformer=replace(SPEC.transformer, text_dim=10, text_len=7))
WEIGHTS = "model_bf16.pt"


def umt5_weights() -> dict[str, Tensor]:
    """Random weights under the published names."""
    generator = torch.Generator().manual_seed(0)
    c = UMT5
    shapes = {
        "token_embedding.weight": (c.vocab_size, c.dim),
        "norm.weight": (c.dim,),
        "blocks.0.norm1.weight": (c.dim,),
        "blocks.0.norm2.weight": (c.dim,),
        **{f"blocks.0.attn.{name}.weight": (c.dim_attn, c.dim) for name in "qkv"},
        "blocks.0.attn.o.weight": (c.dim, c.dim_attn),
        "blocks.0.ffn.gate.0.weight": (c.dim_ffn, c.dim),
        "blocks.0.ffn.fc1.weight": (c.dim_ffn, c.dim),
        "blocks.0.ffn.fc2.weight": (c.dim, c.dim_ffn),
        "blocks.0.pos_embedding.embedding.weight": (c.num_buckets, c.num_heads),
    }
    return {name: torch.randn(s, generator=generator) * 0.3 for name, s in shapes.items()}


def write_tokenizer(folder: Path) -> None:
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "blue": 5, "circle": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def transformer_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = WanTransformer(TINY.transformer)
    return {
        name: value + 0.1 * torch.randn_like(value) for name, value in model.state_dict().items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """All files, as the original names and nests them."""
    folder = tmp_path_factory.mktemp("published")
    state = {f"model.{name}": value.bfloat16() for name, value in transformer_state().items()}
    torch.save({"generator": state, "merged_lora": True, "dtype": "bf16"}, folder / WEIGHTS)
    torch.save(tiny_parts()[1].state_dict(), folder / VAE)
    torch.save({name: w.bfloat16() for name, w in umt5_weights().items()}, folder / TEXT)
    write_tokenizer(folder / TOKENIZER)
    return folder


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "published")


@pytest.fixture(autouse=True)
def empty_hub_cache(monkeypatch) -> list[dict]:
    """Nothing is cached, nothing can be fetched; returns what was asked for."""
    asked = []

    def snapshot_download(model: str, **how: object) -> str:
        asked.append({"model": model, **how})
        raise LocalEntryNotFoundError("nothing is cached")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def load(folder: Path, **how: str) -> LongLivePipeline:
    runtime = Runtime.choose(RuntimeOptions(device="cpu", **how))
    return LongLivePipeline.of(load_original(folder, runtime, spec=TINY, text_config=UMT5), runtime)


def test_published_files_make_a_pipeline(whole, empty_hub_cache):
    pipe = load(whole)
    state = transformer_state()
    for name, parameter in pipe.transformer.named_parameters():
        assert_bitwise_equal(parameter.detach(), state[name].bfloat16().float())
    assert_bitwise_equal(pipe.vae.conv2.bias, tiny_parts()[1].conv2.bias.detach())
    mean = torch.tensor(TINY.vae.latent_mean).view(1, -1, 1, 1, 1)
    assert_bitwise_equal(pipe.vae.latent_mean, mean)
    assert {p.dtype for p in pipe.text.parameters()} == {torch.float32}
    assert len(pipe.fingerprint) == 64
    red, blue = (pipe(f"a {c} circle", seconds=1, seed=1).frames for c in ("red", "blue"))
    assert tuple(red.shape) == (8, 32, 32, 3)
    assert not torch.equal(red, blue)
    assert empty_hub_cache == []


def test_bf16_on_a_cpu_rounds_every_part(whole):
    pipe = load(whole, weights="bf16")
    bias = pipe.vae.conv2.bias
    assert bias.dtype == torch.float32
    assert_bitwise_equal(bias, tiny_parts()[1].conv2.bias.detach().bfloat16().float())


@pytest.mark.parametrize("inside", ["Wan2.2-TI2V-5B", "wan_models/Wan2.2-TI2V-5B"])
def test_the_base_models_files_may_have_a_folder_of_their_own(inside, copied):
    (copied / inside).mkdir(parents=True)
    for name in (VAE, TEXT, "google"):
        (copied / name).rename(copied / inside / name)
    files = find_files(copied)
    assert files.transformer == copied / WEIGHTS
    assert files.vae == copied / inside / VAE
    assert files.tokenizer == copied / inside / TOKENIZER


def test_the_base_models_files_may_be_in_the_hub_cache(copied, tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    for name in (VAE, TEXT, "google"):
        (copied / name).rename(base / name)
    asked = []

    def snapshot_download(model: str, **how: object) -> str:
        asked.append({"model": model, **how})
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert find_files(copied).vae == base / VAE
    assert find_files(copied, download=True).text == base / TEXT
    assert [call["model"] for call in asked] == [BASE] * 2
    assert [call["local_files_only"] for call in asked] == [True, False]
    assert asked[0]["allow_patterns"] == [VAE, TEXT, f"{TOKENIZER}/*"]


def test_another_file_that_holds_bf16_will_do(copied):
    (copied / WEIGHTS).rename(copied / "model_te.pt")
    assert find_files(copied).transformer == copied / "model_te.pt"


@pytest.mark.parametrize("name", [VAE, TEXT, "google"])
def test_a_missing_file_is_named(name, copied):
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    wanted = TOKENIZER if name == "google" else name
    for look in (find_files, read_spec, load):
        with pytest.raises(ValueError, match=f"lacks {wanted} of the published model: .* {BASE}"):
            look(copied)


def test_all_missing_files_are_named_at_once(tmp_path):
    with pytest.raises(ValueError, match=f"lacks {WEIGHTS}, {VAE}, {TEXT}, {TOKENIZER} of"):
        find_files(tmp_path)


def test_what_may_be_fetched_but_cannot_is_said(copied):
    (copied / VAE).unlink()
    with pytest.raises(ValueError, match="the hub cannot be reached"):
        find_files(copied, download=True)


def test_weights_in_four_bits_are_decoded_or_computed_with(copied):
    """Where both are there, the precision that is asked for decides which are read."""
    state, name = transformer_state(), "blocks.1.ffn.0"
    weight = quantize(state.pop(f"{name}.weight"), QuantizeConfig())
    config = PackedConfig(weight=weight.config)
    write_published(copied / "model_4o6.pt", state | packed_state(name, weight), config)
    assert find_files(copied).transformer == copied / WEIGHTS
    assert stored_precision(copied) == "plain"
    packed = load(copied, weights="nvfp4").transformer
    assert isinstance(packed.get_submodule(name), NVFP4Linear)
    assert type(packed.get_submodule("blocks.1.ffn.2")) is nn.Linear  # it was not packed
    (copied / WEIGHTS).unlink()
    assert stored_precision(copied) == "nvfp4"
    decoded = load(copied).transformer.get_submodule(name)
    assert_bitwise_equal(decoded.weight.detach(), dequantize(weight))


def test_files_of_another_size_are_refused(whole):
    """The whole 5B is built without memory of its own before the file is compared with it."""
    runtime = Runtime.choose(RuntimeOptions(device="cpu"))
    with pytest.raises(ValueError, match=rf"{WEIGHTS} does not hold the weights of this Wan"):
        load_original(whole, runtime, spec=LONGLIVE_5B, text_config=UMT5)
