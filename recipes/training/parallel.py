"""Training over several ranks: a mesh of data x sequence, sharded weights, sharded checkpoints.

Data ranks share out the clips of a batch. The ranks of one sequence group hold the same clips, each
its own frames. Weights, gradients, optimizer and average are sharded over all ranks (FSDP2), and
gradients are averaged over them, as ``longlive_core.sequence_parallel.masked_mean`` wants it.

``torch.distributed`` lives here and in ``longlive_core.sequence_parallel``, and nowhere else.
"""

import atexit
import logging
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.checkpoints.tensor_files import read_pickle
from longlive_recipes.configs.checked import YEAR, real_field, whole_field
from longlive_recipes.training.sharded_checkpoints import free_slot, load_shards, point, read_shards

META = "meta.pt"
"""The file of a sharded checkpoint with what is no tensor of the model."""

AVERAGE = "MovingAverage"
"""The callback whose average is sharded as the weights are."""

SHARDED = ("state_dict", "optimizer_states")

MOST_RANKS = 1 << 16
"""More than any job has: each is a process."""

GRACE = 5.0
"""Seconds that other ranks are given to tell their own error, once the first one has failed."""

_log = logging.getLogger(__name__)


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

    def check_compile(self, wanted: bool) -> None:
        """Raise ValueError where a compiled forward would leave out what gathers the weights."""
        if wanted and self.ranks > 1:
            raise ValueError(
                f"run.compile=true is for one rank, got {self.ranks}: sharded weights are gathered "
                f"by hooks that a compiled forward leaves out. Set run.compile=false."
            )

    def strategy(self) -> "str | ShardedStrategy":
        """What Lightning's Trainer takes as its strategy."""
        return "auto" if self.ranks == 1 else ShardedStrategy(self)


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
        """The place in a mesh of data x sequence."""
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

    def whole(self, module: nn.Module) -> dict[str, Tensor]:
        """A module's weights, put together on the first rank's CPU; nothing on the others.

        All ranks must call it.
        """
        if self.world.size == 1:
            return module.state_dict()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        tensors: dict[str, Any] = get_model_state_dict(module, options=options)
        return tensors

    def gather(self, value: Any) -> list[Any]:
        """What every rank holds, by rank; on the first rank, and nothing on the others."""
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
    """Who numbers the ranks; None leaves it to Lightning. One rank alone needs nobody."""
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


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for a module that shards itself in ``configure_model``.

    Its mesh has the axes "data_parallel" and "tensor_parallel": the second is the sequence's.
    A checkpoint is a folder to which every rank writes its part, and which any number of ranks can
    read. It is written beside the one before, which the link at its path then leaves in one move:
    whenever the job is killed, a whole one is there.
    """

    def __init__(self, parallel: Parallel) -> None:
        super().__init__(
            data_parallel_size=parallel.data,
            tensor_parallel_size=parallel.sequence,
            timeout=timedelta(minutes=parallel.timeout_minutes),
        )

    def on_exception(self, exception: BaseException) -> None:
        """Once this rank's error has been told, end the ranks that this process started.

        They wait for it, and not every backend lets them notice before their timeout. If one of
        them ends first, Lightning ends this process.
        """
        super().on_exception(exception)
        if isinstance(self.launcher, _SubprocessScriptLauncher):
            atexit.register(end_ranks, self.launcher.procs)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(filepath)
        callback, average = _average_in(checkpoint)
        tensors = {
            "state_dict": checkpoint["state_dict"],
            "optimizer_0": checkpoint["optimizer_states"][0],
            "average": average,
        }
        rest = {
            **{name: value for name, value in checkpoint.items() if name not in SHARDED},
            "callbacks": {**checkpoint["callbacks"], AVERAGE: {**callback, "average": {}}},
        }
        slot = self.broadcast(free_slot(path))
        if self.is_global_zero:
            shutil.rmtree(slot, ignore_errors=True)
        self.barrier()
        dcp.save(tensors, checkpoint_id=slot)
        if self.is_global_zero:
            torch.save(rest, slot / META)
            point(path, slot)
        self.barrier()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = Path(checkpoint_path)
        average = {name: p.detach().clone() for name, p in self._trained()}
        if path.is_dir():
            checkpoint = self._load_sharded(path, average)
            callback, _ = _average_in(checkpoint)
        else:
            checkpoint = super().load_checkpoint(path, weights_only)
            callback, whole = _average_in(checkpoint)
            average = {
                name: distribute_tensor(whole[name].to(p.device), p.device_mesh, p.placements)
                for name, p in average.items()
            }
        checkpoint["callbacks"][AVERAGE] = {**callback, "average": average}
        return checkpoint

    def _load_sharded(self, path: Path, average: dict[str, Any]) -> dict[str, Any]:
        """Load what is sharded, ``average`` too; returns the rest.

        Lightning's own way would run code that the files may hold.
        """
        assert self.model is not None
        [optimizer] = self.optimizers
        weights = {"state_dict": get_model_state_dict(self.model), "average": average}
        load_shards(weights, path)
        self.model.load_state_dict(weights["state_dict"])
        state = {"optimizer_0": get_optimizer_state_dict(self.model, optimizer)}
        load_shards(state, path)
        set_optimizer_state_dict(
            self.model,
            optimizer,
            optim_state_dict=state["optimizer_0"],
            options=StateDictOptions(cpu_offload=True),
        )
        return read_meta(path)

    def _trained(self) -> Iterator[tuple[str, Any]]:
        assert self.model is not None
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)


def end_ranks(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Let ranks 1, 2 .. of this machine end within ``GRACE`` seconds, and end those that do not.

    A rank that was killed could not say so: that is logged.
    """
    end = time.monotonic() + GRACE
    for rank, process in enumerate(processes, start=1):
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, end - time.monotonic()))
            if code < 0:
                _log.error("local rank %d was killed by signal %d", rank, -code)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as one rank writes it, whoever wrote it; in memory, on the CPU."""
    if path.is_file():
        return read_pickle(path)
    tensors = read_shards(path)
    checkpoint = read_meta(path)
    callback, _ = _average_in(checkpoint)
    checkpoint["callbacks"][AVERAGE] = {**callback, "average": tensors["average"]}
    optimizers = [_by_number(tensors["optimizer_0"])]
    return {**checkpoint, "state_dict": tensors["state_dict"], "optimizer_states": optimizers}


def read_meta(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors, at least.

    Raises ValueError for a file that is not whole, is no pickle, or would run code.
    """
    file = path / META if path.is_dir() else path
    held: dict[str, Any] = read_pickle(file)
    return held


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by the number of each parameter, as a plain optimizer has it."""
    [group] = state["param_groups"]
    names = group["params"]
    return {
        "state": {place: state["state"][name] for place, name in enumerate(names)},
        "param_groups": [{**group, "params": list(range(len(names)))}],
    }


def _average_in(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    callback = checkpoint["callbacks"][AVERAGE]
    return callback, callback["average"]
