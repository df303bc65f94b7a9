"""Dataclasses of a file's values: what was written comes back, and types are held to."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.schema import build, filled


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count={self.count}: it is 0 or more. Use 1.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    flag: bool
    inner: Inner
    several: tuple[Inner, ...]
    pair: tuple[int, str]
    by_page: dict[int, float]
    mode: Literal["keep", "cut"]
    color: Color
    maybe: int | None
    number: float | int
    pages: tuple[int | None, ...]
    folder: Path
    rows: list[str]
    notes: Mapping[str, Any] = field(default_factory=dict)


inners = st.builds(
    Inner, count=st.integers(0, 99), share=st.floats(allow_nan=False, allow_infinity=False)
)
outers = st.builds(
    Outer,
    name=st.text(),
    flag=st.booleans(),
    inner=inners,
    several=st.lists(inners, max_size=2).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    by_page=st.dictionaries(st.integers(0, 99), st.floats(-9, 9), max_size=2),
    mode=st.sampled_from(["keep", "cut"]),
    color=st.sampled_from(Color),
    maybe=st.none() | st.integers(),
    number=st.floats(-9, 9) | st.integers(),
    pages=st.lists(st.none() | st.integers(), max_size=3).map(tuple),
    folder=st.sampled_from(["a", "b/c"]).map(Path),
    rows=st.lists(st.text(), max_size=2),
    notes=st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=2),
)


def as_json(outer: Outer) -> dict[str, Any]:
    values = {**asdict(outer), "color": outer.color.value, "folder": str(outer.folder)}
    return json.loads(json.dumps(values))


GOOD = as_json(
    Outer(
        name="a",
        flag=True,
        inner=Inner(count=1),
        several=(Inner(count=2), Inner(count=3)),
        pair=(1, "x"),
        by_page={3: 0.5},
        mode="keep",
        color=Color.RED,
        maybe=None,
        number=2,
        pages=(0, None),
        folder=Path("a"),
        rows=["x"],
    )
)


@given(outers)
def test_a_dataclass_survives_json(outer):
    assert build(Outer, as_json(outer), "f.json") == outer


def test_what_has_a_default_may_be_missing():
    assert build(Inner, {"count": 2}, "f.json") == Inner(count=2)


def test_a_record_says_inf_of_what_has_no_end():
    assert build(Inner, {"count": 1, "share": "inf"}, "f.json").share == math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "f.json: name is text, got 3: .* Mend it"),
        ({"flag": 1}, "flag is true or false, got 1"),
        ({"inner": [1]}, r"inner is an object \{...\}, got \[1\]"),
        ({"inner": {"count": True}}, "inner.count is a whole number, got True"),
        ({"inner": {"count": 1.0}}, "inner.count is a whole number, got 1.0"),
        ({"inner": {"count": -1}}, "f.json: inner: count=-1: it is 0 or more"),
        ({"inner": {"cuont": 1}}, "inner has no key 'cuont'; did you mean 'count'"),
        ({"inner": {}}, "inner lacks count: nothing implies it"),
        ({"several": {}}, r"several is a list \[...\], got \{\}"),
        ({"several": [{"count": 1}, None]}, r"several\[1\] is an object \{...\}, got None"),
        ({"pair": [1]}, "pair is a list of 2, got 1"),
        ({"pair": ["x", 1]}, r"pair\[0\] is a whole number, got 'x'"),
        ({"by_page": {"a": 1.0}}, "a key of by_page is a whole number, got 'a'"),
        ({"by_page": {"1": "x"}}, "by_page.1 is a finite number, got 'x'"),
        ({"mode": "keeep"}, "mode is one of 'keep', 'cut', got 'keeep'"),
        ({"color": "green"}, "color is one of 'red', 'blue', got 'green'"),
        ({"maybe": "1"}, "maybe is a whole number, got '1'"),
        ({"number": float("nan")}, "number is a finite number or a whole number, got nan"),
        ({"inner": {"count": 1, "share": 10**400}}, "inner.share is a finite number, got a whole"),
        ({"pages": [0, 1.5]}, r"pages\[1\] is a whole number, got 1.5"),
        ({"folder": ""}, "folder is a path in quotes, got ''"),
        ({"folder": "a\0b"}, "folder is a path in quotes"),
        ({"rows": "x"}, r"rows is a list \[...\], got 'x'"),
        ({"notes": []}, r"notes is an object \{...\}, got \[\]"),
        ({"nmae": "a"}, "Outer has no key 'nmae'; did you mean 'name'"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(Outer, {**GOOD, **change}, "f.json")
    assert str(caught.value).startswith("f.json: ")


@pytest.mark.parametrize("name", [name for name in GOOD if name != "notes"])
@pytest.mark.parametrize("value", [None, True, -7, 0.25, "?", [[]], {"?": [0]}])
def test_any_value_is_taken_or_refused_in_words(name, value):
    try:
        build(Outer, {**GOOD, name: value}, "f.json")
    except ValueError as error:
        assert str(error).startswith(f"f.json: {name}") or f" {name}" in str(error)


def test_the_whole_is_an_object_too():
    with pytest.raises(ValueError, match=r"f.json: the whole of it is an object .*, got \[\]"):
        build(Outer, [], "f.json")


@dataclass(frozen=True, kw_only=True)
class LaterPart:
    old: int
    new: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Later:
    inner: LaterPart
    several: tuple[LaterPart, ...] = ()
    names: list[str] = field(default_factory=list)


def test_what_came_later_has_its_default_in_what_was_written_before():
    now = Later(inner=LaterPart(old=1), several=(LaterPart(old=2), LaterPart(old=3, new=4.0)))
    before = {"inner": {"old": 1}, "several": [{"old": 2}, {"old": 3, "new": 5.0}], "gone": 7}
    assert filled(before, now) == {
        "inner": {"old": 1, "new": 2.0},
        "several": [{"old": 2, "new": 2.0}, {"old": 3, "new": 5.0}],
        "gone": 7,
        "names": [],
    }
    assert filled({"inner": 5}, now)["inner"] == 5  # build refuses it
    assert before["inner"] == {"old": 1}  # what was given stays as it was
    assert filled({}, Later) == {"several": (), "names": []}  # nothing stands for what is needed
    assert filled({"several": [{"old": 2}]}, now)["several"] == [{"old": 2}]  # of other lengths
