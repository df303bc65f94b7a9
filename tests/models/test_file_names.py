"""Names that files can have, here and on other systems, in bytes."""

import os
import unicodedata
from pathlib import Path

import pytest

from longlive_models.file_names import part, require_distinct, require_name, require_room, temporary


@pytest.mark.parametrize(
    "name", ["a", "shot 1", "v1.5", "-x", "红色的圆", ".a", "a" * 300, "nulls"]
)
def test_names_that_can_be(name):
    require_name(name, "an id")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "an id '' cannot name a file: it is empty"),
        (" \t", "it is empty"),
        ("..", "it names a folder"),
        ("a/b", "leave out slashes"),
        ("..\\b", "leave out slashes"),
        ("a\0b", "and NUL"),
        ("a\nb", "control characters"),
        ("a\x1b[2J", "control characters"),
        ("\ud800", "control characters"),
        ("CON", "Windows keeps it for a device"),
        ("nul.tar", "Windows keeps it for a device"),
        ("lpt9", "Windows keeps it for a device"),
        (5, "an id is a text, got 5"),
        (None, "an id is a text, got None"),
    ],
)
def test_names_that_cannot_be(name, message):
    with pytest.raises(ValueError, match=message):
        require_name(name, "an id")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "a"),
        ("Circle", "circle"),
        ("straße", "STRASSE"),
        ("café", unicodedata.normalize("NFD", "café")),
    ],
)
def test_names_that_are_one_file_elsewhere(one, other):
    require_distinct([one, "b", other + "2"], "videos")
    with pytest.raises(ValueError, match="two videos have the .* for one, and one file would"):
        require_distinct([one, "b", other], "videos")


@pytest.mark.parametrize("letter", ["a", "é", "红", "🔴"])
def test_names_are_measured_in_bytes(letter, tmp_path):
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    size = len(letter.encode())
    fits = letter * ((most - len(".json.part")) // size)
    path = tmp_path / "new" / f"{fits}.mp4"
    require_room(path, [path.name, part(f"{fits}.json")])
    with pytest.raises(ValueError, match=r"takes \d+ bytes, and .* takes 255.*shorter by"):
        require_room(path, [path.name, part(f"{fits}{letter}.json")])
    (tmp_path / part(f"{fits}.json")).write_text("it can be")


def test_folders_that_are_to_be_made_are_measured_too(tmp_path):
    with pytest.raises(ValueError, match="needs a file 'nnn"):
        require_room(tmp_path / ("n" * 256) / "a.mp4", ["a.mp4"])


def test_a_temporary_name_is_hidden_and_of_one_process():
    assert temporary("a") != "a"
    assert Path(temporary("a")).name.startswith(".")
    assert str(os.getpid()) in temporary("a")
