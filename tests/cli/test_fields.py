"""The fields of a config as `--set` names them: names, kinds, defaults, columns."""

from dataclasses import dataclass, field

import pytest

from longlive_cli.fields import LONGEST, Field, fields_of, table, written


@dataclass(frozen=True)
class Part:
    length: int = 3
    until: float | None = None


@dataclass(frozen=True)
class Whole:
    name: str = "a"
    part: Part = field(default_factory=Part)
    parts: tuple[Part, ...] = (Part(), Part(length=4))
    sizes: tuple[int, ...] = (1, 2)


def test_fields_inside_fields_have_their_whole_path():
    found = [(row.name, row.kind, row.default) for row in fields_of(Whole())]
    assert found == [
        ("name", "text", "a"),
        ("part.length", "a whole number", "3"),
        ("part.until", "a number or none", "none"),
        ("parts.0.length", "a whole number", "3"),
        ("parts.0.until", "a number or none", "none"),
        ("parts.1.length", "a whole number", "4"),
        ("parts.1.until", "a number or none", "none"),
        ("sizes", "a list like 1,2 of whole numbers", "1,2"),
    ]
    assert next(fields_of(Whole(), "x.")).name == "x.name"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, "none"),
        (0.5, "0.5"),
        ("A b", "A b"),
        ((1, None, True), "1,none,true"),
        ([(1, 2), (3,)], "1,2,3"),
        ((), ""),
    ],
)
def test_a_default_is_written_as_set_takes_it(value, text):
    assert written(value) == text


def test_sixty_letters_are_written_and_more_end_in_dots():
    assert written("x" * LONGEST) == "x" * 60
    assert written("x" * 61) == "x" * 57 + "..."
    assert len(written("x" * 1000)) == 60


def test_columns_are_as_wide_as_their_longest_word():
    rows = [
        Field(name="a", kind="text", default="long"),
        Field(name="longer", kind="a number", default=""),
    ]
    assert table(rows) == ["a       long  text", "longer        a number"]
    assert table([]) == []
