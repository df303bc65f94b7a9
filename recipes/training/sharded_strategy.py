"""How Lightning trains a module whose weights are sharded, and how such a module is stored.

A sharded checkpoint has the tensors of every part in torch's format, of which each rank writes its
own: ``state_dict``, ``optimizer_0`` .. of each optimizer, ``average`` of the average of a module
that has one, ``averages.NAME`` of named ones. The rest of a checkpoint lies beside them in
``meta.pt``.
"""

import atexit
import logging
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.optim import Optimizer

from longlive_recipes.training.checkpoint_layout import (
    averages_in,
    left_out,
    optimizers_in,
    with_averages,
)
from longlive_recipes.training.optimizer_states import named_state, numbered_state, parameter_names
from longlive_recipes.training.optimizers import ONLY
from longlive_recipes.training.parallel import Parallel, shard_like
from longlive_recipes.training.sharded_checkpoints import (
    META,
    free_slot,
    load_shards,
    point,
    read_checkpoint,
    read_meta,
    read_metadata,
)

GRACE = 5.0
"""Seconds that other ranks are given to tell their own error, once the first one has failed."""

_log = logging.getLogger(__name__)


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

    def optimizer_state(self, optimizer: Optimizer | LightningOptimizer) -> dict[str, Any]:
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return named_state(self._module, plain)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(filepath)
        averages = {name: state["average"] for name, state in averages_in(checkpoint).items()}
        rest = with_averages(checkpoint, {name: {} for name in averages})
        states = rest.pop("optimizer_states")
        tensors = {"state_dict": rest.pop("state_dict"), **_average_parts(averages)}
        tensors |= {f"optimizer_{number}": state for number, state in enumerate(states)}
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
        """Load weights and optimizers; returns the rest, averages included.

        Lightning's own way would run code that the files may hold.

        Raises:
            ValueError: the checkpoint has not as many optimizers as the module, or others.
        """
        path = Path(checkpoint_path)
        return self._load_sharded(path) if path.is_dir() else self._load_whole(path)

    def _load_sharded(self, path: Path) -> dict[str, Any]:
        rest, held = read_meta(path), read_metadata(path)
        self._check_count(len(optimizers_in(rest)), path)
        parameters = dict(self._module.named_parameters())
        averages = {
            name: {
                parameter: torch.zeros_like(parameters[parameter], dtype=torch.float32)
                for parameter in _names_below(held.planner_data, _average_path(name))
                if parameter in parameters
            }
            for name in averages_in(rest)
        }
        states = [
            {
                **named_state(self._module, optimizer),
                "state": _values_to_fill(held, f"optimizer_{number}", parameters),
            }
            for number, optimizer in enumerate(self.optimizers)
        ]
        weights = get_model_state_dict(self._module)
        for name in left_out(rest):
            weights.pop(name, None)
        tensors = {"state_dict": weights, **_average_parts(averages)}
        tensors |= {f"optimizer_{number}": state for number, state in enumerate(states)}
        load_shards(tensors, path)
        self._module.load_state_dict(weights, strict=False)
        for optimizer, state in zip(self.optimizers, states, strict=True):
            self._fill(optimizer, state, path)
        return with_averages(rest, averages)

    def _load_whole(self, path: Path) -> dict[str, Any]:
        """What one rank wrote: every rank reads it, and keeps its own parts."""
        checkpoint = read_checkpoint(path)
        self._check_count(len(checkpoint["optimizer_states"]), path)
        parameters = dict(self._module.named_parameters())
        set_model_state_dict(
            self._module,
            checkpoint.pop("state_dict"),
            options=StateDictOptions(full_state_dict=True, strict=not left_out(checkpoint)),
        )
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = parameter_names(named_state(self._module, optimizer))
            if len(names) != sum(len(group["params"]) for group in state["param_groups"]):
                raise _other_parameters(path)
            shards = {
                number: {
                    key: shard_like(value, parameters[names[number]])
                    for key, value in values.items()
                }
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": shards})
        averages = {
            name: {
                parameter: shard_like(whole, parameters[parameter])
                for parameter, whole in state["average"].items()
            }
            for name, state in averages_in(checkpoint).items()
        }
        return with_averages(checkpoint, averages)

    def _fill(self, optimizer: Optimizer, state: dict[str, Any], path: Path) -> None:
        """Let an optimizer have a named state that was loaded."""
        own = parameter_names(named_state(self._module, optimizer))
        if parameter_names(state) != own or not state["state"].keys() <= set(own):
            raise _other_parameters(path)
        optimizer.load_state_dict(numbered_state(state))

    def _check_count(self, count: int, path: Path) -> None:
        if count != len(self.optimizers):
            raise ValueError(
                f"{path} has the states of {count} optimizers, and the run has "
                f"{len(self.optimizers)}: it is a checkpoint of another recipe. Go on with the one "
                f"that wrote it."
            )

    @property
    def _module(self) -> nn.Module:
        assert self.model is not None
        return self.model


def strategy(parallel: Parallel) -> str | ShardedStrategy:
    """What Lightning's Trainer takes as its strategy for so many ranks."""
    return "auto" if parallel.ranks == 1 else ShardedStrategy(parallel)


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


def _average_path(name: str) -> tuple[str, ...]:
    return ("average",) if name == ONLY else ("averages", name)


def _average_parts(averages: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Averages as the parts of a sharded checkpoint."""
    parts: dict[str, Any] = {}
    named = {name: some for name, some in averages.items() if name != ONLY}
    if ONLY in averages:
        parts["average"] = averages[ONLY]
    return {**parts, "averages": named} if named else parts


def _names_below(paths: Mapping[str, tuple[Any, ...]], above: tuple[str, ...]) -> list[str]:
    """The last words of paths that lead to what lies right below ``above``."""
    places = len(above)
    return [path[-1] for path in paths.values() if path[:places] == above]


def _values_to_fill(
    held: Metadata, part: str, parameters: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Zeros for what a checkpoint holds of an optimizer, by parameter and kind of number."""
    values: dict[str, dict[str, Tensor]] = {}
    for entry, path in held.planner_data.items():
        if path[:2] != (part, "state") or path[2] not in parameters:
            continue
        stored = held.state_dict_metadata[entry]
        assert isinstance(stored, TensorStorageMetadata), f"{entry} is no tensor"
        parameter, size = parameters[path[2]], stored.size
        values.setdefault(path[2], {})[path[3]] = (
            torch.zeros_like(parameter)
            if size == parameter.shape
            else torch.zeros(size, dtype=torch.float32, device="cpu")
        )
    return values


def _other_parameters(path: Path) -> ValueError:
    return ValueError(
        f"an optimizer in {path} is of other parameters than the run's: it is a checkpoint of "
        f"another config. Go on with the config that it was begun with."
    )
