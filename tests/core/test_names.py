"""The clauses of messages that name what exists."""

import pytest

from longlive_core.names import did_you_mean, few, nearest


@pytest.mark.parametrize(
    ("name", "clause"),
    [("amax_7", "; did you mean 'amax_6'? "), ("nothing like", ". "), (6, ". "), (None, ". ")],
)
def test_the_nearest_name_is_offered(name, clause):
    assert did_you_mean(name, iter(("amax_6", "mse"))) == clause


def test_how_alike_names_must_be_can_be_said():
    assert nearest("colou", ["color"]) == "color"
    assert nearest("colou", ["color"], likeness=0.95) is None


def test_the_first_few_are_named_and_the_rest_counted():
    names = ["a", "b", "c"]
    assert few(names, 3) == few(names, 9) == "a, b, c"
    assert few(names, 1) == "a and 2 more"
    assert few([], 2) == ""
    assert few(list("abcdefg")) == "a, b, c, d, e and 2 more"
