"""Numbers are taken in every form that means one, and refused in words in all others."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.checks import real, shown, switch, text, whole

WHY = "Use 1 or more."


@given(st.integers(-(2**62), 2**62))
def test_whole_numbers_of_every_library_are_one_int(number: int):
    for value in (number, np.int64(number), torch.tensor(number)):
        taken = whole("steps", value, why=WHY)
        assert type(taken) is int
        assert taken == number


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), 2.0, np.float32(2), "2", None, [2]]
)
def test_what_is_no_whole_number_is_refused(value: object):
    with pytest.raises(ValueError, match=r"^steps is a whole number, got .*: Use 1 or more\.$"):
        whole("steps", value, why=WHY)


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5))
def test_bounds_are_included(number: int, low: int, high: int):
    if low <= number <= high:
        assert whole("n", number, why=WHY, at_least=low, at_most=high) == number
        assert real("n", number, why=WHY, at_least=low, at_most=high) == number
    else:
        for check in (whole, real):
            with pytest.raises(ValueError, match="n is at (least|most) "):
                check("n", number, why=WHY, at_least=low, at_most=high)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_real_numbers_of_every_library_are_one_float(number: float):
    for value in (number, np.float32(number), torch.tensor(number, dtype=torch.float64)):
        taken = real("seconds", value, why=WHY)
        assert type(taken) is float
        assert taken == number


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, True, "5", None, 10**400, torch.ones(2), [5.0]]
)
def test_what_is_no_finite_number_is_refused(value: object):
    with pytest.raises(ValueError, match=r"^seconds is a finite number, got "):
        real("seconds", value, why=WHY)


@pytest.mark.parametrize(
    ("bound", "said"),
    [(1 << 24, "16777216"), (float(1 << 24), "16777216"), (1e6, "1000000"), (0.5, "0.5")],
)
def test_whole_bounds_are_shown_whole(bound, said):
    with pytest.raises(ValueError, match=rf"^n is at most {said}, got"):
        real("n", 1e300, why=WHY, at_most=bound)
    with pytest.raises(ValueError, match=r"^n is at most 9223372036854775807, got"):
        whole("n", 2**63, why=WHY)
    with pytest.raises(ValueError, match=r"^n is above 1e\+300, got"):
        real("n", 1, why=WHY, above=1e300)


def test_a_bound_that_is_not_included():
    assert real("fps", 1e-300, why=WHY, above=0) == 1e-300
    with pytest.raises(ValueError, match=r"^fps is above 0, got 0: "):
        real("fps", 0, why=WHY, above=0)


def test_long_values_are_shortened_on_one_line():
    assert shown("a\nb" * 100).endswith("...")
    assert len(shown("a" * 5000)) == 60
    assert shown(10**5000) == "a whole number of 16610 bits"


def test_switches_and_texts_are_of_their_type():
    switch("s", True, why="On or off.")
    text("t", "auto", why="A name.")
    for value in (1, "True", None):
        with pytest.raises(ValueError, match="s is True or False, got .*On or off"):
            switch("s", value, why="On or off.")
    for value in (1, None, b"auto"):
        with pytest.raises(ValueError, match="t is a string, got .*A name"):
            text("t", value, why="A name.")
