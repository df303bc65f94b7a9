"""The classes of a model folder's parts: named in its index, found in a table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.hub import EMBEDDED
from longlive_models.checkpoints.model_folder import read_spec, read_words
from longlive_models.parts import PARTS, read_classes
from longlive_models.settings import PART_CLASSES
from longlive_models.text import PocketTextEncoder
from tests.models.tiny_pipeline import write_tiny_folder


def change(folder: Path, **named: object) -> None:
    """Name other classes in a folder's index; None names none."""
    file = folder / "model_index.json"
    index = {**json.loads(file.read_text()), **named}
    file.write_text(json.dumps({key: value for key, value in index.items() if value is not None}))


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_tiny_folder(tmp_path / "model")


@pytest.mark.parametrize("written", [True, False])
def test_a_folder_says_its_classes_and_so_does_the_one_that_ships(written, folder):
    where = folder if written else EMBEDDED["pocket"]
    index = json.loads((where / "model_index.json").read_text())
    assert {part: tuple(index[part]) for part in PARTS} == PART_CLASSES


def test_a_folder_that_names_none_is_read_as_before(folder):
    named = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    change(folder, **dict.fromkeys(PARTS))
    plain = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    assert plain.spec == named.spec
    assert plain.fingerprint == named.fingerprint
    frames = [pipe("a red circle", seconds=1).frames for pipe in (plain, named)]
    assert_bitwise_equal(*frames)


class ShoutingText(PocketTextEncoder):
    """A text encoder of somebody else's: it reads everything as one word."""

    def encode(self, prompts):
        return super().encode(["a" for _ in prompts])


def test_another_text_encoder_is_one_row(folder, monkeypatch):
    row = PARTS["text_encoder"]["PocketTextEncoder"]

    def load(part, config, runtime, reduce_amax):
        text = ShoutingText(config)
        text.load_state_dict(row.load(part, config, runtime, reduce_amax).state_dict())
        return text

    monkeypatch.setitem(PARTS["text_encoder"], "ShoutingText", replace(row, load=load, words=None))
    change(folder, text_encoder=["longlive_models", "ShoutingText"])
    assert read_words(folder) is None
    pipe = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    assert isinstance(pipe.text, ShoutingText)
    one, other = (pipe(prompt, seconds=1).frames for prompt in ("a red circle", "a blue square"))
    assert_bitwise_equal(one, other)


@pytest.mark.parametrize(
    "named",
    [
        ["longlive_models", "UMT9"],
        ["diffusers", "PocketTextEncoder"],
        ["longlive_models"],
        "PocketTextEncoder",
        ["longlive_models", ["PocketTextEncoder"]],
        7,
    ],
)
def test_a_class_that_is_not_in_the_table_is_refused(named, folder):
    change(folder, text_encoder=named)
    message = r'model_index.json: text_encoder is .*this version has \["longlive_models", "Pocket'
    for reader in (read_classes, read_spec, read_words):
        with pytest.raises(ValueError, match=message):
            reader(folder)
