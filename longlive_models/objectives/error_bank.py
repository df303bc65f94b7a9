"""Past errors of a model's predictions, sorted by timestep, in bounded memory or on a disk.

An error is a tensor of one block. Buckets divide the training levels evenly by their place in the
schedule's table; a bucket holds so many errors and then replaces one for each that comes. Entries
may also be sorted by the block of the clip that they come from, and ranks may each keep a share of
the buckets. What is random is drawn from the ``random.Random`` that is passed in.

Source: SVI (arXiv 2510.09212) and LongLive-2.0 (arXiv 2605.18739), error recycling.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import hold_reals, hold_wholes, shown
from longlive_models.objectives.disk_tensors import disk_tensor

Place = tuple[int, int]
"""The block that an error is of (0 where they are not told apart), and its bucket."""

REPLACEMENTS = ("random", "fifo", "nearest")
STORES = ("memory", "disk")


@dataclass(frozen=True, kw_only=True)
class ErrorBankConfig:
    """How errors are kept.

    Attributes:
        buckets: into how many the levels are divided.
        bucket_size: errors that each holds at most.
        replacement: which one a full bucket gives up: a ``random`` one, the oldest (``fifo``), or
            the one that is closest to the new one (``nearest``).
        modulation: a sampled error is scaled by a number from ``1 - modulation`` to
            ``1 + modulation``.
        levels: entries of the schedule's table.
        blocks: blocks of a clip that are told apart; 0 if they are not.
        store: where they lie, in the CPU's memory or on a ``disk``; what is drawn is the same.
        rank, ranks: this bank keeps the buckets that are ``rank`` modulo ``ranks``.
    """

    buckets: int = 50
    bucket_size: int = 8
    replacement: Literal["random", "fifo", "nearest"] = "random"
    modulation: float = 0.3
    levels: int = 1000
    blocks: int = 0
    store: Literal["memory", "disk"] = "memory"
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        why = "it is a size of a bank of errors."
        hold_wholes(self, "buckets bucket_size levels ranks", at_least=1, why=why)
        hold_wholes(self, "blocks", at_least=0, why=f"{why} 0 does not tell blocks apart.")
        last = min(self.ranks, self.buckets) - 1
        hold_wholes(self, "rank", at_least=0, at_most=last, why="each rank keeps a bucket or more.")
        hold_reals(self, "modulation", at_least=0, at_most=1, why="it is a share of an error.")
        if self.replacement not in REPLACEMENTS:
            raise ValueError(
                f"ErrorBankConfig.replacement is one of {', '.join(REPLACEMENTS)}, got "
                f"{shown(self.replacement)}: it says which error a full bucket gives up."
            )
        if self.store not in STORES:
            raise ValueError(
                f"ErrorBankConfig.store is one of {', '.join(STORES)}, got {shown(self.store)}: it "
                f"says where errors lie."
            )

    @property
    def owned(self) -> tuple[int, ...]:
        """The buckets that this rank keeps."""
        return tuple(range(self.rank, self.buckets, self.ranks))

    @property
    def most_entries(self) -> int:
        """Errors that the bank holds at most."""
        return len(self.owned) * max(self.blocks, 1) * self.bucket_size

    def bucket(self, index: int) -> int:
        """The bucket of a level, by its place in the schedule's table."""
        return min(max(int(index / (self.levels / self.buckets)), 0), self.buckets - 1)

    def nearest_owned(self, bucket: int) -> int:
        """The bucket of this rank that is closest, the higher one of two as close."""
        return min(self.owned, key=lambda own: (abs(own - bucket), -own))


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """An error that was drawn from a bank.

    Attributes:
        error: as the bank holds it, in its memory: to be read before the bank takes in others.
        scale: what it is multiplied by, in float32, where it is added.
    """

    error: Tensor
    scale: float


class ErrorBank:
    """Errors of blocks, by timestep.

    Args:
        config: how they are kept.
        dtype: that they are kept in; they come out in float32.
        folder: where their files are made, for ``store="disk"``.

    Raises:
        ValueError: errors are to lie on a disk, and no folder is given.

    Attributes:
        entries: what each place holds, oldest first where ``replacement`` is ``fifo``.
        added: how many errors it has taken in all.
    """

    def __init__(
        self,
        config: ErrorBankConfig,
        *,
        dtype: torch.dtype = torch.bfloat16,
        folder: Path | None = None,
    ) -> None:
        if config.store == "disk" and folder is None:
            raise ValueError(
                "ErrorBank(store='disk') needs a folder: its errors lie in files there. Give one, "
                "or keep them in memory."
            )
        self.config = config
        self.folder = folder if config.store == "disk" else None
        self._rows: dict[Place, Tensor] = {}  # of places on a disk, all that each will hold
        self.dtype = dtype
        self.entries: dict[Place, list[Tensor]] = {}
        self.added = 0
        self._listed: dict[int, list[Tensor]] = {}  # what ``held`` gives, until there are others

    def add(
        self, error: Float[Tensor, "*shape"], index: int, chance: random.Random, *, block: int = 0
    ) -> None:
        """Take in an error of level ``index``; one of a bucket of another rank is left out."""
        bucket = self.config.bucket(index)
        if bucket not in self.config.owned:
            return
        place = self._block(block), bucket
        held = self.entries.setdefault(place, [])
        kept = error.detach().to("cpu", self.dtype)
        self.added += 1
        self._listed.clear()
        if len(held) < self.config.bucket_size:
            held.append(self._put(place, len(held), kept))
            return
        at = self._given_up(held, kept, chance)
        held[at].copy_(kept)
        if self.config.replacement == "fifo":
            held.append(held.pop(at))

    def sample(
        self, index: int, chance: random.Random, *, block: int = 0
    ) -> Float[Tensor, "..."] | None:
        """An error of the level's bucket, or of the closest that this rank keeps; None if empty."""
        return _scaled(self.choose(index, chance, block=block))

    def sample_any(self, chance: random.Random, *, block: int = 0) -> Float[Tensor, "..."] | None:
        """An error of any level, of this block if blocks are told apart; None if none is there."""
        return _scaled(self.choose_any(chance, block=block))

    def choose(self, index: int, chance: random.Random, *, block: int = 0) -> Chosen | None:
        """What ``sample`` gives, as it lies in the bank: to put errors of a batch together."""
        bucket = self.config.nearest_owned(self.config.bucket(index))
        return self._choose(self.entries.get((self._block(block), bucket), []), chance)

    def choose_any(self, chance: random.Random, *, block: int = 0) -> Chosen | None:
        """What ``sample_any`` gives, as it lies in the bank."""
        block = self._block(block)
        if block not in self._listed:
            self._listed[block] = self.held(block)
        return self._choose(self._listed[block], chance)

    def held(self, block: int = 0) -> list[Tensor]:
        """The errors of a block, bucket by bucket; all of them where blocks are not told apart."""
        block = self._block(block)
        places = sorted(place for place in self.entries if place[0] == block)
        return [error for place in places for error in self.entries[place]]

    def __len__(self) -> int:
        return sum(len(held) for held in self.entries.values())

    def state_dict(self) -> dict[str, Any]:
        """All that it holds: tensors under ``block.bucket``, stacked, and how many it has taken.

        Those of a bank on a disk are its own, mapped from there, and change as it goes on: save
        them at once.
        """
        held = {f"{place[0]}.{place[1]}": self._stacked(place) for place in self.entries}
        return {"added": self.added, "errors": held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold what another bank held. Raises ValueError if that was kept otherwise."""
        places: dict[Place, Tensor] = {}
        for name, errors in state["errors"].items():
            block, bucket = (int(number) for number in name.split("."))
            if bucket not in self.config.owned or block != self._block(block):
                raise ValueError(
                    f"errors of block {block} and bucket {bucket} have no place in {self.config}: "
                    f"they were kept by another one. Resume with the settings that the run had."
                )
            if len(errors) > self.config.bucket_size:
                raise ValueError(
                    f"{len(errors)} errors of block {block} and bucket {bucket} are more than "
                    f"bucket_size {self.config.bucket_size}: they were kept by another bank. "
                    f"Resume with the settings that the run had."
                )
            places[block, bucket] = errors
        self.entries, self._rows, self.added = {}, {}, int(state["added"])
        self._listed.clear()
        for place, errors in places.items():
            kept = [one.to("cpu", self.dtype) for one in errors]
            self.entries[place] = [self._put(place, at, one) for at, one in enumerate(kept)]

    def _put(self, place: Place, at: int, error: Tensor) -> Tensor:
        """An error as the bank holds it, at a place that has room: a copy, in memory or on disk."""
        if self.folder is None:
            return error.clone(memory_format=torch.contiguous_format)
        if place not in self._rows:
            shape = (self.config.bucket_size, *error.shape)
            self._rows[place] = disk_tensor(self.folder, shape, self.dtype)
        return self._rows[place][at].copy_(error)

    def _given_up(self, held: list[Tensor], new: Tensor, chance: random.Random) -> int:
        """Which error of a full place is replaced."""
        if self.config.replacement == "fifo":
            return 0
        if self.config.replacement == "random":
            return chance.randrange(len(held))
        distances = [float((old.float() - new.float()).square().sum()) for old in held]
        return distances.index(min(distances))

    def _stacked(self, place: Place) -> Tensor:
        """A place's errors, the first one first; those on a disk stay there."""
        held = self.entries[place]
        if place not in self._rows:
            return torch.stack(held)
        rows = self._rows[place][: len(held)]
        if self.config.replacement == "fifo":  # they lie in a ring
            rows.copy_(torch.stack(held))
            self.entries[place] = list(rows)
            self._listed.clear()
        return rows

    def _block(self, block: int) -> int:
        return min(max(block, 0), max(self.config.blocks, 1) - 1)

    def _choose(self, held: list[Tensor], chance: random.Random) -> Chosen | None:
        if not held:
            return None
        found, reach = held[chance.randrange(len(held))], self.config.modulation
        return Chosen(error=found, scale=chance.uniform(1 - reach, 1 + reach) if reach else 1.0)


def _scaled(chosen: Chosen | None) -> Tensor | None:
    return None if chosen is None else chosen.error.to(torch.float32) * chosen.scale
