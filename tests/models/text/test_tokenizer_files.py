"""A tokenizer's folder: what is in it is read or refused, and none of its code runs."""

import json
from pathlib import Path

import pytest
import torch

from longlive_models.text import UMT5Config, load_tokenizer, load_umt5

TOKENS = {"<unk>": 0, "<pad>": 1, "</s>": 2, "a": 3}
GOOD = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": TOKENS, "unk_token": "<unk>"},
}
NAMES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def write(folder: Path, tokenizer=GOOD, config=NAMES) -> Path:
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text)
    return folder


def test_a_tokenizer_is_read(tmp_path):
    assert load_tokenizer(write(tmp_path)).pad_token == "<pad>"


@pytest.mark.parametrize("config", [None, {}, {"pad_token": None}])
def test_one_that_cannot_pad_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="has no token that pads, .*tokenizer_config.json"):
        load_tokenizer(write(tmp_path, config=config))


@pytest.mark.parametrize(
    "tokenizer",
    ["", "{}", "[]", "hello", json.dumps(GOOD)[:50], GOOD | {"model": {"type": "BPE"}}],
)
def test_a_broken_one_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(write(tmp_path, tokenizer))


@pytest.mark.parametrize(
    "config", ["[]", "{bad", {"tokenizer_class": 5}, {"pad_token": 5}, {"tokenizer_class": "T5"}]
)
def test_so_is_one_with_a_broken_config(config, tmp_path):
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(write(tmp_path, config=config))


def test_code_of_the_folder_is_neither_run_nor_offered(tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text("open('ran', 'w')\nclass Own: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    named = {"auto_map": {"AutoTokenizer": ["code.Own", None]}}
    with pytest.raises(ValueError, match="names code of the folder, which is not run"):
        load_tokenizer(write(tmp_path, config=NAMES | named))
    assert not (tmp_path / "ran").exists()


def test_a_model_of_sentencepiece_alone_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(ValueError, match="spiece.model without tokenizer.json: .*google/umt5-xxl"):
        load_tokenizer(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no tokenizer.json: check the path"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json.incomplete").touch()
    with pytest.raises(ValueError, match="only tokenizer.json.incomplete is there"):
        load_tokenizer(tmp_path)


def test_more_tokens_than_the_encoder_has_are_refused(tmp_path):
    config = UMT5Config(vocab_size=3, dim=8, dim_attn=8, dim_ffn=8, num_heads=1, num_layers=1)
    torch.save({"a": torch.ones(1)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="has 4 tokens, the encoder takes 3"):
        load_umt5(tmp_path / "model.pth", write(tmp_path), config=config)
