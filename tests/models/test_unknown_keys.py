"""Unknown keys are named, with the nearest one."""

import pytest

from longlive_models.unknown_keys import refuse_unknown_keys


def test_known_keys_pass():
    refuse_unknown_keys("a thing", {"steps": 1}, ("steps", "shift"))


def test_an_unknown_key_is_named_with_the_nearest():
    with pytest.raises(
        ValueError, match="a thing has no key 'stesp'; did you mean 'steps'.*: shift, steps"
    ):
        refuse_unknown_keys("a thing", ["shift", "stesp"], ("steps", "shift"))


def test_a_key_that_is_like_no_other_gets_the_list():
    with pytest.raises(ValueError, match=r"no key 'zzz'\. Its keys: shift, steps\."):
        refuse_unknown_keys("a thing", ["zzz"], iter(("steps", "shift")))
