"""Checkpoint files of training runs: found, read with every part looked at, written whole."""

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from longlive_core.checks import real, shown, whole
from longlive_models.checkpoints.folder import fill
from longlive_recipes.training.checkpoint_layout import (
    CLOCK,
    OPTIMIZERS,
    average_key,
    averages_in,
    left_out,
    optimizers_in,
    steps_in,
)
from longlive_recipes.training.eight_bit import CODES
from longlive_recipes.training.muon import BUFFER
from longlive_recipes.training.optimizers import ONLY
from longlive_recipes.training.run_folder import CHECKPOINT as CHECKPOINT
from longlive_recipes.training.run_folder import find_checkpoint as find_checkpoint
from longlive_recipes.training.schedule import MOST_STEPS
from longlive_recipes.training.sharded_checkpoints import (
    metadata,
    read_checkpoint,
    read_meta,
    read_metadata,
)

UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    KeyError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
)
"""What torch raises for files that it did not write."""


def completed_steps(checkpoint: Path) -> int:
    """How many steps a checkpoint has behind it. Raises ValueError as ``read_state`` does."""
    return steps_in(read_state(checkpoint))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors, at least, every part of the kind it has to be.

    Raises:
        ValueError: no checkpoint of a training run, a damaged one, or one that would run code.
    """
    if checkpoint.is_dir():
        read_metadata(checkpoint)
    try:
        state = read_meta(checkpoint)
    except UNREADABLE as error:
        raise _damaged(checkpoint, "it cannot be read") from error
    if not isinstance(state, dict):
        raise _damaged(checkpoint, "it holds something else")
    try:
        _check_parts(state)
    except KeyError as error:
        raise _damaged(checkpoint, f"it has no {error}") from error
    except ValueError as error:
        raise _damaged(checkpoint, str(error).rstrip(".")) from error
    return state


def check_fits(checkpoint: Path, module: nn.Module, config: Any) -> None:
    """Raise ValueError where a checkpoint is not of such a module, and so not of this recipe.

    Args:
        module: the module's parts by the names that they have in it, perhaps ``unfilled``.
        config: what names the recipe in the message.
    """
    state = read_state(checkpoint)
    weights, averages = _shards(checkpoint) if checkpoint.is_dir() else _tensors_of(state)
    own = module.state_dict()
    weights |= {name: own[name] for name in left_out(state) if name in own}
    for tensors in (weights, *({**weights, **average} for average in averages)):
        try:
            fill(module, tensors, checkpoint)
        except ValueError as error:
            raise ValueError(
                f"{error} Or it is a checkpoint of another recipe than {type(config).__name__}: "
                f"go on with the one that wrote it."
            ) from error
    if checkpoint.is_file():
        _check_optimizers(checkpoint, state)


def put_together(sharded: Path, path: Path) -> Path:
    """Write a sharded checkpoint to ``path`` as one file, in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(read_checkpoint(sharded), path)
    return path


def write_whole(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint's file in one move: whatever fails, what was there before stays whole.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            told = _Told(file)
            torch.save(checkpoint, told)
            if told.error is not None:
                raise told.error
            file.flush()
            os.fsync(file.fileno())  # a full disk may say so only here
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class _Told(io.BytesIO):
    """A file that keeps what the system says of it, which torch hides when it saves.

    Attributes:
        error: the first error of a write; nothing is written after it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes, unless an earlier write failed."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: what was written is flushed once, at the end."""


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints, which are written in one move.

    Its own goes through the folder for temporary files, which may be on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(checkpoint, path)


Tensors = dict[str, Tensor]


def _tensors_of(state: dict[str, Any]) -> tuple[Tensors, list[Tensors]]:
    """Weights and averages of a checkpoint in one file."""
    return state["state_dict"], [one["average"] for one in averages_in(state).values()]


def _shards(folder: Path) -> tuple[Tensors, list[Tensors]]:
    """Weights and averages of a sharded checkpoint by name, as tensors without values."""
    held, parts = read_metadata(folder), dict[tuple[Any, ...], Tensors]()
    for name, entry in held.state_dict_metadata.items():
        path = held.planner_data[name]
        if isinstance(entry, metadata.TensorStorageMetadata):
            tensor = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            parts.setdefault(path[:-1], {})[path[-1]] = tensor
    averages = [tensors for path, tensors in parts.items() if path[0] in ("average", "averages")]
    return parts.get(("state_dict",), {}), averages


def _damaged(checkpoint: Path, reason: str) -> ValueError:
    return ValueError(
        f"{checkpoint} is no checkpoint of a training run ({reason}): name the folder of a run, or "
        f"a file like {CHECKPOINT} in it."
    )


def _check_parts(state: dict[str, Any]) -> None:
    """Raise KeyError or ValueError for what a run could not go on with."""
    whole("global_step", state["global_step"], at_least=0, at_most=MOST_STEPS, why="")
    callbacks = _mapping(state["callbacks"], "callbacks")
    left_out(state)
    optimizers_in(state)
    if OPTIMIZERS not in state and average_key(ONLY) not in callbacks:
        raise KeyError(average_key(ONLY))
    for name, average in averages_in(state).items():
        key = average_key(name)
        whole(f"{key}.step", _mapping(average, key)["step"], at_least=0, at_most=MOST_STEPS, why="")
        _tensors(average["average"], f"{key}.average")
    clock = _mapping(callbacks[CLOCK], CLOCK)
    real(f"{CLOCK}.seconds", clock["seconds"], at_least=0, why="")
    whole(f"{CLOCK}.steps", steps_in(state), at_least=0, at_most=MOST_STEPS, why="")
    _mapping(_mapping(state["loops"], "loops")["fit_loop"], "loops.fit_loop")
    if not isinstance(state["pytorch-lightning_version"], str):
        raise ValueError("its version of Lightning is no text")
    if "state_dict" in state:
        _tensors(state["state_dict"], "state_dict")


def _check_optimizers(checkpoint: Path, state: dict[str, Any]) -> None:
    """Raise ValueError unless each optimizer's numbers are of the parameters that there are."""
    told, weights = optimizers_in(state), state["state_dict"]
    try:
        fits = {
            name: _is_of(
                optimizer,
                [
                    weights[one]
                    for one in told[name].parameters or averages_in(state)[ONLY]["average"]
                ],
            )
            for name, optimizer in zip(told, state["optimizer_states"], strict=True)
        }
        for schedule in state["lr_schedulers"]:
            _mapping(schedule, "lr_schedulers")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(checkpoint, "its optimizers' states are not AdamW's") from error
    if not all(fits.values()):
        raise _damaged(checkpoint, "its optimizers' states are of other weights")


def _is_of(optimizer: dict[str, Any], weights: list[Tensor]) -> bool:
    """Whether an optimizer's state is of these weights: AdamW's numbers, or Muon's."""
    [group] = optimizer["param_groups"]
    numbers = group["params"]
    return len(numbers) == len(weights) and all(
        one[name if name in one else name + CODES].shape == weight.shape
        for number, weight in zip(numbers, weights, strict=True)
        if (one := optimizer["state"].get(number)) is not None
        for name in ((BUFFER,) if BUFFER in one else ("exp_avg", "exp_avg_sq"))
    )


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"its {name} are no named values but {shown(value)}")
    return value


def _tensors(value: Any, name: str) -> None:
    for key, tensor in _mapping(value, name).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}.{key} is no tensor but {shown(tensor)}")
