"""SequenceGroup: the ranks that share one video."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Num
from torch import Tensor

from longlive_core.checks import hold_wholes, instance


@dataclass(frozen=True)
class SequenceGroup:
    """One rank's place among the ranks that share a video.

    ``SequenceGroup()`` is one rank alone: nothing is communicated, and ``torch.distributed`` need
    not be initialized. Others come from a process group: ``SequenceGroup.of``.

    Attributes:
        rank: this rank's number in the group, from 0.
        size: how many ranks the group has.
        process_group: torch.distributed's group; None for one rank alone.
    """

    rank: int = 0
    size: int = 1
    process_group: dist.ProcessGroup | None = None

    def __post_init__(self) -> None:
        why = "it is a rank's place among those that share a video."
        hold_wholes(self, "rank size", why=why)
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"SequenceGroup has rank {self.rank} of {self.size}: ranks count from 0. A process "
                f"outside a process group has no rank in it; give it the group that it belongs to."
            )
        if self.size > 1 and self.process_group is None:
            raise ValueError(
                f"SequenceGroup of {self.size} ranks has no process group to communicate through. "
                f"Build it with SequenceGroup.of(process_group), or leave size at 1."
            )

    @classmethod
    def of(cls, process_group: dist.ProcessGroup) -> "SequenceGroup":
        """This rank's place in a process group, such as ``mesh["sequence"].get_group()``."""
        if process_group is not None:
            why = "it is torch.distributed's. Pass mesh['sequence'].get_group(), say."
            instance("SequenceGroup.of's process_group", process_group, dist.ProcessGroup, why=why)
        size = dist.get_world_size(process_group)
        return cls(dist.get_rank(process_group), size, process_group if size > 1 else None)

    def max(self, x: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
        """The largest of every rank's ``x``, element by element, on every rank; no gradient."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def sum(self, x: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
        """The sum of every rank's ``x``, element by element, on every rank; no gradient."""
        return self._reduced(x, dist.ReduceOp.SUM)

    @torch.no_grad()
    def _reduced(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return x
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, operation, group=self.process_group)
        return x
