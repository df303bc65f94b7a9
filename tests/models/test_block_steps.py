"""Steps of a block: one number, or numbers by block whose last one stays."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.block_steps import check_block_steps, steps_of_block

NUMBERS = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


@given(NUMBERS, st.integers(0, 30))
def test_the_last_number_holds_for_all_later_blocks(numbers, block):
    steps = check_block_steps("steps", numbers)
    assert steps_of_block(steps, block) == (numbers + numbers[-1:] * 31)[block]


@given(st.integers(1, 1000), st.integers(0, 10**6))
def test_one_number_is_that_of_every_block(number, block):
    for given_as in (number, [number], (number,), np.int64(number), torch.tensor(number)):
        steps = check_block_steps("steps", given_as)
        assert steps == number
        assert type(steps) is int
        assert steps_of_block(steps, block) == number


def test_numbers_by_block_are_a_tuple_of_plain_numbers():
    steps = check_block_steps("steps", [np.int32(4), 2, torch.tensor(2)])
    assert steps == (4, 2, 2)
    assert isinstance(steps, tuple)
    assert {type(number) for number in steps} == {int}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (0, r"steps is at least 1, got 0: .*noise level.*Use, say, 4, or \(4, 2\)"),
        (1001, "steps is at most 1000, got 1001"),
        ((4, 0), "steps of block 1 is at least 1, got 0"),
        ((4, 2.5), "steps of block 1 is a whole number, got 2.5"),
        ((), r"steps by block are one number or more, got \(\)"),
        ("4,2", "steps is a whole number, got '4,2'"),
        (True, "steps is a whole number, got True"),
        (None, "steps is a whole number, got None"),
        ({4: 2}, "steps is a whole number, got"),
    ],
)
def test_what_are_no_steps_is_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        check_block_steps("steps", steps)
