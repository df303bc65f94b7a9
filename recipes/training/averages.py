"""Moving averages of weights, each over the parameters that its name stands for."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from longlive_core.names import few
from longlive_recipes.training.checkpoint_layout import average_key
from longlive_recipes.training.optimizers import (
    EVERYTHING,
    ONLY,
    Selection,
    select,
    trainable,
)


class Updated(Protocol):
    """A module that tells which parameters its optimizers moved in the step that is over."""

    @property
    def updated(self) -> set[str]: ...


class MovingAverage(Callback):
    """An exponential moving average of some parameters, on their own device.

    Lightning's own callback deep-copies the whole module and does not work with sharded
    parameters; this one keeps one tensor a parameter, in float32, shards included. Its ``n``-th
    update weighs the past with ``min(decay, (1 + n) / (10 + n))``, so that the start is soon
    forgotten.

    Args:
        decay: how much of the past is in the average.
        name: what tells it from the other averages of a module.
        parameters: which weights are averaged; frozen ones are left out.
    """

    def __init__(
        self, decay: float, *, name: str = ONLY, parameters: Selection = EVERYTHING
    ) -> None:
        if not 0 <= decay < 1:  # false for NaN
            raise ValueError(
                f"a moving average needs 0 <= decay < 1, got {decay}: at 1 nothing is ever "
                f"learnt. Use 0.999, say, or 0 for no average."
            )
        self.decay = decay
        self.name = name
        self.parameters = parameters
        self._average: dict[str, Tensor] = {}
        self._updates = 0

    @property
    def state_key(self) -> str:
        return average_key(self.name)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module: Updated = pl_module
        if not self._average.keys().isdisjoint(module.updated):
            self.update(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start(pl_module)

    def start(self, module: nn.Module) -> None:
        """Begin with the module's weights, or go on with the averages of a checkpoint.

        Raises:
            ValueError: the checkpoint's averages are of other parameters.
        """
        parameters = dict(module.named_parameters())
        names = select(trainable(module), self.parameters, f"average {self.name!r}")
        self._check_names(names)
        begun = {name: self._average.get(name, parameters[name]) for name in names}
        self._average = {
            name: kept.detach().to(parameters[name].device, torch.float32, copy=True)
            for name, kept in begun.items()
        }

    def _check_names(self, names: Iterable[str]) -> None:
        """Raise ValueError where the averages are of other parameters; none are of any."""
        others = sorted(self._average.keys() ^ set(names)) if self._average else []
        if others:
            raise ValueError(
                f"average {self.name!r} of the checkpoint holds other parameters than the "
                f"module's ({few(others)}): it is of another config. Go on with the config that it "
                f"was begun with."
            )

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights as they are."""
        self._updates += 1
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        parameters = dict(module.named_parameters())
        values = [parameters[name].detach().float() for name in self._average]
        torch._foreach_lerp_(list(self._average.values()), values, 1 - decay)

    def lend(self, module: nn.Module, *, of: str) -> None:
        """Let a network compute with the averages: its parameters share their memory from now on.

        Parameters that are not averaged stay as they are. To be called again in every step, since a
        checkpoint that is loaded brings other tensors.

        Args:
            module: a network like the averaged one, and no part of the module.
            of: the averaged one's name in the module, which its parameters' names begin with.
        """
        for name, parameter in module.named_parameters():
            if (average := self._average.get(f"{of}.{name}")) is not None:
                parameter.data = average

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Within the block, ``module`` holds the averaged weights."""
        parameters = dict(module.named_parameters())
        kept = {name: parameters[name].detach().clone() for name in self._average}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in kept.items():
                    parameters[name].copy_(weight)
            torch.clear_autocast_cache()

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Replace the module's weights by the averaged ones."""
        parameters = dict(module.named_parameters())
        for name, average in self._average.items():
            parameters[name].copy_(average)
        torch.clear_autocast_cache()  # it holds the weights of before, rounded

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "step": self._updates}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._check_names(state_dict["average"])  # of sharded ones, after they have begun
        self._average = dict(state_dict["average"])
        self._updates = state_dict["step"]
