"""An operation on many things, of which some are computed alone, and whether their bits differ."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from longlive_recipes.bench.options import Table

REFUSED = (RuntimeError, ValueError)
"""What a kernel raises that does not take so few things."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """An operation that can be computed for some of its things.

    Attributes:
        name: what it is.
        things: what is counted: rows, queries, heads or frames.
        total: how many there are.
        compute: the result for those from one number up to another; dimension ``dim`` counts them.
        counts: how many are computed alone; powers of two and equal shares unless given.
        dim: which dimension of the result counts things.
    """

    name: str
    things: str
    total: int
    compute: Callable[[int, int], Tensor]
    counts: tuple[int, ...] = ()
    dim: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of a split.

    Attributes:
        same, differ, refused: the counts whose bits are those of all together, are not, and that
            are not computed by what runs here.
        largest: the largest difference of a number.
    """

    same: tuple[int, ...]
    differ: tuple[int, ...]
    refused: tuple[int, ...]
    largest: float

    @property
    def bound(self) -> int | None:
        """The count from which on bits are the same; None if they differ up to the largest one."""
        wrong = max((*self.differ, *self.refused), default=0)
        return min((count for count in self.same if count > wrong), default=None)

    @property
    def verdict(self) -> str:
        """In words."""
        if not (self.differ or self.refused):
            return "same bits for any number"
        return "other bits" if self.bound is None else f"same bits from {self.bound} on"


def usual_counts(total: int) -> tuple[int, ...]:
    """Powers of two, and the shares of 2, 4 and 8 ranks, below ``total``."""
    powers = {1 << n for n in range(total.bit_length())}
    shares = {total // ranks for ranks in (2, 4, 8)}
    return tuple(sorted(count for count in powers | shares if 0 < count < total))


@torch.no_grad()
def examine(split: Split) -> Finding:
    """Compute everything together, then the first and the last few by themselves."""
    whole = split.compute(0, split.total)
    same: list[int] = []
    differ: list[int] = []
    refused: list[int] = []
    largest = 0.0
    for count in split.counts or usual_counts(split.total):
        try:
            found = max(_difference(split, whole, at, count) for at in (0, split.total - count))
        except REFUSED:
            refused.append(count)
            continue
        largest = max(largest, found)
        (differ if found else same).append(count)
    return Finding(same=tuple(same), differ=tuple(differ), refused=tuple(refused), largest=largest)


def table_of(splits: Iterable[Split]) -> Table:
    """Examine each, and make a row of what was found."""
    rows: Table = {}
    for split in splits:
        try:
            found = examine(split)
        except REFUSED as problem:
            said = " ".join(str(problem).split())[:120]
            rows[split.name] = {"bits": f"does not run here: {said}"}
            continue
        rows[split.name] = {
            "things": f"{split.total} {split.things}",
            "bits": found.verdict,
            "other_bits_at": _listed(found.differ),
            "refused_at": _listed(found.refused),
            "largest_difference": found.largest,
        }
    return rows


def _difference(split: Split, whole: Tensor, at: int, count: int) -> float:
    """The largest difference between some things alone and among all; 0 for the same bits."""
    alone, among = split.compute(at, at + count), whole.narrow(split.dim, at, count)
    if torch.equal(alone, among):
        return 0.0
    off = (alone.float() - among.float()).abs().max()
    return max(float(off), 1e-45)


def _listed(counts: tuple[int, ...]) -> str:
    return ", ".join(map(str, counts))
