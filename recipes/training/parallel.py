"""Training over several ranks: a mesh of data x sequence, and weights that are sharded over it.

Data ranks share out the clips of a batch. The ranks of one sequence group hold the same clips, each
its own frames. Weights, gradients, optimizer and average are sharded over all ranks (FSDP2), and
gradients are averaged over them, as ``longlive_core.sequence_parallel.masked_mean`` wants it.

``torch.distributed`` lives here, in the modules of sharded checkpoints beside this one, and in
``longlive_core.sequence_parallel``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from longlive_core.memory import require_room
from longlive_core.sequence_parallel import SequenceGroup
from longlive_recipes.configs.checked import YEAR, real_field, whole_field

MOST_RANKS = 1 << 16
"""More than any job has: each is a process."""


PROCESS_BYTES = 512 << 20
"""The least memory of a process that has loaded torch."""


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Over how many ranks a run is spread; one rank is a plain run.

    Attributes:
        data: ranks, or groups of ranks, that share out the clips of a batch.
        sequence: ranks that share each clip, every one with its own frames.
        nodes: machines; each runs as many ranks as the others.
        timeout_minutes: how long a rank waits for another one before it gives up.
    """

    data: int = 1
    sequence: int = 1
    nodes: int = 1
    timeout_minutes: float = 30.0

    def __post_init__(self) -> None:
        for name in ("data", "sequence", "nodes"):
            whole_field(
                self,
                name,
                at_least=1,
                at_most=MOST_RANKS,
                why="a run has one rank or more. Use 1 for what is not split.",
            )
        real_field(
            self,
            "timeout_minutes",
            above=0,
            at_most=YEAR,
            why="a rank waits so long for another one before it gives up. Use 30, say.",
        )
        if self.ranks % self.nodes:
            raise ValueError(
                f"data={self.data} times sequence={self.sequence} makes {self.ranks} ranks, which "
                f"nodes={self.nodes} cannot share evenly: make one a multiple of the other."
            )

    @property
    def ranks(self) -> int:
        """How many ranks there are in all."""
        return self.data * self.sequence

    def check_clips(self, name: str, clips: int) -> None:
        """Raise ValueError where the data ranks cannot share out so many clips evenly."""
        if clips % self.data:
            raise ValueError(
                f"{name} is {clips} clips, which parallel.data={self.data} ranks cannot share out "
                f"evenly: make it a multiple."
            )

    def check_room(self, device: torch.device) -> None:
        """Raise ValueError for more processes than this machine's memory can hold on a CPU."""
        here = self.ranks // self.nodes
        if device.type == "cpu":
            require_room(
                f"{here} processes",
                here * PROCESS_BYTES,
                device,
                why="each rank is a process that loads torch and the model. Use fewer ranks.",
            )

    def check_compile(self, wanted: bool) -> None:
        """Raise ValueError where a compiled forward would leave out what gathers the weights."""
        if wanted and self.ranks > 1:
            raise ValueError(
                f"run.compile=true is for one rank, got {self.ranks}: sharded weights are gathered "
                f"by hooks that a compiled forward leaves out. Set run.compile=false."
            )


@dataclass(frozen=True)
class Ranks:
    """This rank's place among all; ``Ranks()`` is one alone.

    Attributes:
        data: the ranks with the same frames of other clips.
        sequence: the ranks with other frames of the same clips.
        world: all of them.
    """

    data: SequenceGroup = field(default_factory=SequenceGroup)
    sequence: SequenceGroup = field(default_factory=SequenceGroup)
    world: SequenceGroup = field(default_factory=SequenceGroup)

    @classmethod
    def of(cls, mesh: DeviceMesh) -> "Ranks":
        """This rank's place in a mesh of data x sequence."""
        data, sequence = (SequenceGroup.of(mesh.get_group(axis)) for axis in (0, 1))
        everyone = dist.group.WORLD
        assert everyone is not None, "a mesh has a process group"
        return cls(data, sequence, SequenceGroup.of(everyone))

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.world.rank == 0

    def clips(self, x: Tensor) -> Tensor:
        """This rank's part of a batch, whose clips the data ranks share out evenly; a view."""
        each, left = divmod(len(x), self.data.size)
        if left:
            raise ValueError(
                f"{self.data.size} data ranks cannot share out {len(x)} clips evenly: make the "
                f"batch a multiple of parallel.data."
            )
        return x.narrow(0, self.data.rank * each, each)

    def all_clips(self, x: Tensor) -> Tensor:
        """The clips of all data ranks in their order, on every rank; without a gradient.

        All ranks must call it, with parts of one shape.
        """
        if self.data.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.data.size)]
        dist.all_gather(parts, x.detach().contiguous(), group=self.data.process_group)
        return torch.cat(parts)

    def whole(self, module: nn.Module) -> dict[str, Tensor]:
        """A module's weights, put together on the first rank's CPU; nothing on the others.

        All ranks must call it.
        """
        if self.world.size == 1:
            return module.state_dict()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        tensors: dict[str, Any] = get_model_state_dict(module, options=options)
        return tensors

    def agree(self, value: Any) -> Any:
        """What the first rank says, on all of them. All ranks must call it."""
        if self.world.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self.world.process_group)
        return said[0]

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of parameters that every rank holds whole, in one exchange."""
        held = [p.grad for p in parameters if p.grad is not None]
        if self.world.size == 1 or not held:
            return
        flat = torch.cat([gradient.flatten() for gradient in held]) / self.world.size
        dist.all_reduce(flat, group=self.world.process_group)
        parts = flat.split([gradient.numel() for gradient in held])
        for gradient, part in zip(held, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of a number that is logged; without gradients."""
        if self.world.size == 1:
            return value.detach()
        total = value.detach().clone()
        dist.all_reduce(total, group=self.world.process_group)
        return total / self.world.size

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in their order, on the first rank; nothing on the others."""
        if self.world.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world.size if self.first else None
        dist.gather_object(value, values, group=self.world.process_group)
        return values or []


def check_launch(ranks: int) -> None:
    """Raise ValueError where torchrun started another number of ranks than a command is for.

    Each of them would do the whole of it, and write the same files. To be asked on every rank,
    before anything is written.
    """
    if TorchElasticEnvironment.detect():
        started = TorchElasticEnvironment().world_size()
        if started != ranks:
            raise ValueError(
                f"torchrun started {started} ranks, and this command is for {ranks}: each would do "
                f"the whole of it, into the same files. Ask for as many ({_ASK}), or start it "
                f"without torchrun."
            )


def environment(ranks: int) -> ClusterEnvironment | None:
    """What tells Lightning the numbers of ranks: of one alone its own; None lets it look."""
    return LightningEnvironment() if ranks == 1 else None


_ASK = "train: --set parallel.data=N or parallel.sequence=N; generate: --nproc N"


def is_first_process() -> bool:
    """Whether this process speaks for a job: it is alone, or the first of its ranks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def shard(module: nn.Module, parts: Iterable[nn.Module], ranks: SequenceGroup) -> None:
    """Shard a module's parameters over ranks: of each of its ``parts``, then of the rest.

    The parts are gathered one at a time, when they are needed. Build and quantize before.
    """
    assert ranks.process_group is not None, "one rank alone has nothing to share out"
    device = "cuda" if dist.get_backend(ranks.process_group) == "nccl" else "cpu"
    mesh = DeviceMesh.from_group(ranks.process_group, device)
    for each in (*parts, module):
        fully_shard(each, mesh=mesh, reshard_after_forward=True)


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(whole: Any, parameter: Tensor) -> Any:
    """This rank's part of a tensor that belongs to a parameter and has its shape.

    What has another shape, as the number of an optimizer's updates, is not shared out.
    """
    is_shared_out = isinstance(whole, Tensor) and whole.shape == parameter.shape
    if not isinstance(parameter, DTensor) or not is_shared_out:
        return whole
    return distribute_tensor(
        whole.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all ranks; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
