"""Past errors of a model's predictions, sorted by timestep, in bounded memory on the CPU.

An error is a tensor of one block. Buckets divide the training levels evenly by their place in the
schedule's table; a bucket holds so many errors and then replaces one for each that comes. Entries
may also be sorted by the block of the clip that they come from, and ranks may each keep a share of
the buckets. What is random is drawn from the ``random.Random`` that is passed in.

Source: SVI (arXiv 2510.09212) and LongLive-2.0 (arXiv 2605.18739), error recycling.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import hold_reals, hold_wholes, shown

Place = tuple[int, int]
"""The block that an error is of (0 where they are not told apart), and its bucket."""

REPLACEMENTS = ("random", "fifo", "nearest")


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
        rank, ranks: this bank keeps the buckets that are ``rank`` modulo ``ranks``.
    """

    buckets: int = 50
    bucket_size: int = 8
    replacement: Literal["random", "fifo", "nearest"] = "random"
    modulation: float = 0.3
    levels: int = 1000
    blocks: int = 0
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


class ErrorBank:
    """Errors of blocks, by timestep.

    Args:
        config: how they are kept.
        dtype: that they are kept in; they come out in float32.

    Attributes:
        entries: what each place holds, oldest first where ``replacement`` is ``fifo``.
        added: how many errors it has taken in all.
    """

    def __init__(self, config: ErrorBankConfig, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.config = config
        self.dtype = dtype
        self.entries: dict[Place, list[Tensor]] = {}
        self.added = 0

    def add(
        self, error: Float[Tensor, "*shape"], index: int, chance: random.Random, *, block: int = 0
    ) -> None:
        """Take in an error of level ``index``; one of a bucket of another rank is left out."""
        bucket = self.config.bucket(index)
        if bucket not in self.config.owned:
            return
        held = self.entries.setdefault((self._block(block), bucket), [])
        kept = error.detach().to("cpu", self.dtype, copy=True)
        self.added += 1
        if len(held) < self.config.bucket_size:
            held.append(kept)
        elif self.config.replacement == "fifo":
            del held[0]
            held.append(kept)
        elif self.config.replacement == "random":
            held[chance.randrange(len(held))] = kept
        else:
            distances = [float((old.float() - kept.float()).square().sum()) for old in held]
            held[distances.index(min(distances))] = kept

    def sample(
        self, index: int, chance: random.Random, *, block: int = 0
    ) -> Float[Tensor, "..."] | None:
        """An error of the level's bucket, or of the closest that this rank keeps; None if empty."""
        bucket = self.config.nearest_owned(self.config.bucket(index))
        return self._choose(self.entries.get((self._block(block), bucket), []), chance)

    def sample_any(self, chance: random.Random, *, block: int = 0) -> Float[Tensor, "..."] | None:
        """An error of any level, of this block if blocks are told apart; None if none is there."""
        return self._choose(self.held(block), chance)

    def held(self, block: int = 0) -> list[Tensor]:
        """The errors of a block, bucket by bucket; all of them where blocks are not told apart."""
        places = sorted(place for place in self.entries if place[0] == self._block(block))
        return [error for place in places for error in self.entries[place]]

    def __len__(self) -> int:
        return sum(len(held) for held in self.entries.values())

    def state_dict(self) -> dict[str, Any]:
        """All that it holds: tensors under ``block.bucket``, stacked, and how many it has taken."""
        held = {f"{b}.{bucket}": torch.stack(e) for (b, bucket), e in self.entries.items()}
        return {"added": self.added, "errors": held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold what another bank held. Raises ValueError if that was kept otherwise."""
        entries: dict[Place, list[Tensor]] = {}
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
            entries[block, bucket] = [one.to("cpu", self.dtype, copy=True) for one in errors]
        self.entries, self.added = entries, int(state["added"])

    def _block(self, block: int) -> int:
        return min(max(block, 0), max(self.config.blocks, 1) - 1)

    def _choose(self, held: list[Tensor], chance: random.Random) -> Tensor | None:
        if not held:
            return None
        error, reach = held[chance.randrange(len(held))].float(), self.config.modulation
        return error * chance.uniform(1 - reach, 1 + reach) if reach else error
