"""Which counts have the bits of all together: found for operations whose answer is known."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longlive_recipes.bench.invariance.splits import Split, examine, table_of, usual_counts

X = torch.arange(64, dtype=torch.float32)


def split(run, total: int = 64, **how: object) -> Split:
    return Split(name="one", things="rows", total=total, compute=lambda a, b: run(X[a:b]), **how)


def test_rows_by_themselves_are_the_same_for_any_number():
    found = examine(split(lambda x: x * 2))
    assert found.verdict == "same bits for any number"
    assert found.same == usual_counts(64) and found.bound == 1
    assert found.largest == 0


def test_the_bound_is_where_bits_stay_the_same():
    found = examine(split(lambda x: x + (len(x) < 16)))
    assert found.verdict == "same bits from 16 on"
    assert found.differ == (1, 2, 4, 8)
    assert found.largest == 1.0


def test_one_that_differs_up_to_the_largest_count_has_no_bound():
    found = examine(split(lambda x: x + (len(x) < 64)))
    assert (found.verdict, found.bound) == ("other bits", None)


def test_the_last_rows_are_looked_at_too():
    found = examine(split(lambda x: x + (float(x[0]) == 56)))
    assert found.differ == (8,)  # the last eight rows alone; among all, and as the first, no


def test_a_count_that_is_refused_is_said():
    def run(x: Tensor) -> Tensor:
        if len(x) < 4:
            raise RuntimeError("so few rows are not computed")
        return x

    found = examine(split(run))
    assert found.refused == (1, 2)
    assert found.verdict == "same bits from 4 on"


def test_nan_is_not_the_same():
    assert examine(split(lambda x: x / 0 * 0)).verdict == "other bits"


def test_one_that_does_not_run_at_all_is_a_row_that_says_so():
    def refuses(x: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    assert table_of([split(refuses)]) == {"one": {"bits": "does not run here: no such kernel"}}


@given(st.integers(1, 10000))
def test_counts_are_powers_of_two_and_shares_of_ranks(total):
    counts = usual_counts(total)
    assert all(0 < count < total for count in counts)
    assert list(counts) == sorted(set(counts))
    assert {total // ranks for ranks in (2, 4, 8)} - {0} <= set(counts) | {total}
