"""States of optimizers by the names of their parameters, so that ranks and runs can exchange them.

torch's own helpers make an optimizer that has not made an update yet take one, with gradients of
zero, whenever its state is asked for: AdamW would count it, and a run that writes checkpoints would
learn something else than one that does not. Nothing here changes an optimizer that is saved.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer


def named_state(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state, with the names of parameters instead of their numbers."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    state = optimizer.state_dict()
    return {
        "state": {order[number]: values for number, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [order[number] for number in group["params"]]}
            for group in state["param_groups"]
        ],
    }


def numbered_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``named_state``: as a plain optimizer has it."""
    order = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(order)}
    return {
        "state": {numbers[name]: values for name, values in state.get("state", {}).items()},
        "param_groups": [
            {**group, "params": [numbers[name] for name in group["params"]]}
            for group in state["param_groups"]
        ],
    }


def parameter_names(state: Mapping[str, Any]) -> list[str]:
    """The names of an optimizer's parameters, of its named state."""
    return [name for group in state["param_groups"] for name in group["params"]]
