"""JSON and YAML of other people's files: plain values come back, all else is refused in words."""

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.documents import (
    DEEPEST,
    LARGEST_YAML,
    MOST_DIGITS,
    lines_of,
    parse_json,
    read_json,
    read_text,
    read_yaml,
    to_json,
)
from tests.architecture.source import imported_by

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**MOST_DIGITS) + 1, 10**MOST_DIGITS - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(plain)
def test_what_is_written_is_read_as_it_was(value):
    assert parse_json(to_json(value, "it"), "it") == value


@given(st.dictionaries(st.text("abc", min_size=1), plain, min_size=1))
def test_yaml_is_read_as_pyyaml_reads_it(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("yaml") / "a.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert read_yaml(file) == values


@given(st.text(), st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_text_is_read_with_its_line_ends_and_without_a_mark(tmp_path_factory, text, mark):
    file = tmp_path_factory.mktemp("text") / "a.txt"
    text = "text" + text  # no mark of another encoding
    file.write_bytes(mark + text.encode())
    assert read_text(file) == text


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))))
def test_lines_end_at_line_ends_alone(lines):
    for end in ("\n", "\r\n", "\r"):
        assert lines_of(end.join(lines)) == (lines or [""])


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.json is not JSON .it is empty.*written in part"),
        (" \n", "it is empty"),
        ("{dim: 3}", "p.json is not JSON .*at line 1, column 2.*double quotes"),
        ('{"a": 1,}', "no comma is last"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "1e999 is larger than any number"),
        (f'{{"a": {"9" * 5000}}}', "whole number of 5000 digits is larger"),
        ('{"a": {"b": 1, "b": 2}}', "key 'b' stands twice"),
        (NESTED, "nests values more than 64 deep"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nests values more than 64 deep"),
        ('{"a": "\\ud800"}', r"half a character \(.ud800\)"),
        ('{"\\udfff": 1}', "half a character"),
        ("[1]", "must hold an object .*, got a list"),
        ("null", "got null"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*lfs pull"),
        ("<!DOCTYPE html><html>", "it is a web page"),
    ],
)
def test_json_that_means_nothing_is_refused_with_its_file(tmp_path, text, message):
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 500


BOMB = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{f'*{before},' * 9}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A hundred million values, in 300 letters."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("[1, 2]", "holds no fields"),
        ("", "holds no fields"),
        ("a: .nan", "NaN is no number"),
        (f"a: {'9' * 5000}", "is not YAML.*quotes"),
        (f"a: {'9' * 1000}", "whole number of 33.. bits"),
        ("a: 2001-99-99", "is not YAML.*quotes"),
        ("a: &a [*a]", "nests values more than 64 deep"),
        ("a: " + "[" * 3000 + "]" * 3000, "nests values more than 64 deep"),
        ("a: !!python/object/apply:os.system [echo]", "is not YAML.*could not determine"),
        (BOMB, "aliases that repeat"),
        ("a: " + "x" * LARGEST_YAML, "more than 1 MiB"),
    ],
)
def test_yaml_that_means_nothing_is_refused_with_its_file(tmp_path, text, message):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9", "UTF-8 text, got the byte 0xe9 at 3: it means nothing"),
        ("{}".encode("utf-16"), "got the byte 0xff at 0, as UTF-16 has it.*Save the file as UTF-8"),
        ("{}".encode("utf-16-be"), "got the byte 0x00 at 0, as UTF-16"),
        (b"\0\0\0\x1cftypisom", "0x00 at 0, as files have that are no text.*Name another file"),
        ("{}".encode("utf-16-le"), "got the byte 0x00 at 1, as UTF-16"),
    ],
)
def test_another_encoding_is_named(tmp_path, data, message):
    file = tmp_path / "p.json"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_json(file)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match="absent.json cannot be read .No such file.*a config is"):
        read_json(tmp_path / "absent.json", "a config")
    with pytest.raises(ValueError, match="cannot be read .Is a directory"):
        read_json(tmp_path)
    (tmp_path / "large").write_bytes(b"1" * (3 << 20))
    with pytest.raises(ValueError, match="more than 2 MiB: a config is"):
        read_text(tmp_path / "large", "a config", most=2 << 20)
    with pytest.raises(ValueError, match="more than 1 MiB"):  # it has no end
        read_text("/dev/zero", most=1 << 20)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {(1, 2): 3}, {1, 2}])
def test_what_json_has_no_word_for_is_not_written(value):
    with pytest.raises(ValueError, match="a note cannot be written as JSON .*finite numbers"):
        to_json({"a": value}, "a note")


def test_duplicate_keys_do_not_hide_behind_a_merge(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("base: &b {x: 1, y: 2}\none:\n  <<: *b\n  x: 3\n")
    assert read_yaml(file)["one"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("name", ["documents", "schema", "unknown_keys"])
def test_reading_needs_no_torch(name):
    modules = imported_by(Path("longlive_models", f"{name}.py"))
    early = {module.partition(".")[0] for module, at_import in modules if at_import}
    assert early - sys.stdlib_module_names <= {"longlive_core", "longlive_models"}
