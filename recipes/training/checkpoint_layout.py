"""What a training checkpoint holds, and under which names.

Lightning's own parts are ``state_dict``, ``optimizer_states``, ``lr_schedulers``, ``loops`` and
``callbacks``. Among the callbacks are the state of every moving average, and the run's seconds and
steps. ``optimizers`` tells of each optimizer, in the order of ``optimizer_states``, its name, the
names of its parameters and how many updates it has made; ``left_out`` has the names of frozen
parameters that are not in ``state_dict``. Checkpoints from before 0.2.0 have one
optimizer and one average, and nothing under ``optimizers``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from longlive_core.checks import shown, whole
from longlive_recipes.training.optimizers import ONLY
from longlive_recipes.training.schedule import MOST_STEPS

AVERAGE = "MovingAverage"
"""The key of an average's state; that of a named one is ``MovingAverage.NAME``."""

CLOCK = "Clock"
"""The key of the state with a run's seconds and steps."""

OPTIMIZERS = "optimizers"

LEFT_OUT = "left_out"


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """What a checkpoint tells of an optimizer beside its tensors.

    Attributes:
        updates: how many it has made.
        parameters: the names of its parameters; None in checkpoints from before 0.2.0.
    """

    updates: int
    parameters: tuple[str, ...] | None


def average_key(name: str) -> str:
    """The key of an average's state among those of the callbacks."""
    return AVERAGE if name == ONLY else f"{AVERAGE}.{name}"


def averages_in(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The state of every average, by the average's name."""
    found = {}
    for key, state in checkpoint["callbacks"].items():
        kind, _, name = key.partition(".")
        if kind == AVERAGE:
            found[name or ONLY] = state
    return found


def with_averages(
    checkpoint: Mapping[str, Any], averages: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Any]:
    """A checkpoint whose averages have these tensors instead of their own."""
    states = averages_in(checkpoint)
    replaced = {
        average_key(name): {**states[name], "average": dict(tensors)}
        for name, tensors in averages.items()
    }
    return {**checkpoint, "callbacks": {**checkpoint["callbacks"], **replaced}}


def steps_in(checkpoint: Mapping[str, Any]) -> int:
    """How many steps a checkpoint has behind it.

    Lightning's own ``global_step`` counts updates of all optimizers where a module makes them
    itself.
    """
    steps: int = checkpoint["callbacks"][CLOCK].get("steps", checkpoint["global_step"])
    return steps


def left_out(checkpoint: Mapping[str, Any]) -> list[str]:
    """The names of frozen parameters that a checkpoint leaves to the module.

    Raises:
        ValueError: it tells no list of names.
    """
    names = checkpoint.get(LEFT_OUT, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its {LEFT_OUT} is no list of names but {shown(names)}")
    return names


def optimizers_in(checkpoint: Mapping[str, Any]) -> dict[str, OptimizerState]:
    """What a checkpoint tells of its optimizers, by name, in the order of their states.

    Raises:
        ValueError: what it tells is no number of updates, or no list of names.
    """
    if OPTIMIZERS not in checkpoint:
        return {ONLY: OptimizerState(updates=checkpoint["global_step"], parameters=None)}
    found = checkpoint[OPTIMIZERS]
    if not isinstance(found, Mapping) or not all(
        isinstance(one, Mapping) for one in found.values()
    ):
        raise ValueError(f"its {OPTIMIZERS} are no named values but {shown(found)}")
    return {name: _optimizer_state(name, state) for name, state in found.items()}


def _optimizer_state(name: str, state: Mapping[str, Any]) -> OptimizerState:
    parameters = state["parameters"]
    if not isinstance(parameters, list) or not all(isinstance(one, str) for one in parameters):
        raise ValueError(f"optimizer {name!r} has no list of names but {shown(parameters)}")
    updates = whole(f"{name}.updates", state["updates"], at_least=0, at_most=MOST_STEPS, why="")
    return OptimizerState(updates=updates, parameters=tuple(parameters))


def optimizer_values(optimizers: Mapping[str, OptimizerState]) -> dict[str, Any]:
    """What ``optimizers_in`` reads, as plain values."""
    return {
        name: {"updates": state.updates, "parameters": list(state.parameters or ())}
        for name, state in optimizers.items()
    }
