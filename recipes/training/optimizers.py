"""Which optimizers a training module has, what each of them trains, and which averages are kept.

Parameters are chosen by name: by a pattern such as ``"student.*"``, by several patterns, or by a
function that is given a parameter's name. Frozen parameters are never chosen.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from longlive_core.checks import real, shown
from longlive_core.names import few
from longlive_recipes.configs.checked import (
    choice_field,
    parts_field,
    real_field,
    switch_field,
)
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.training.schedule import LearningRateCurve

Selection = str | tuple[str, ...] | Callable[[str], bool]
"""Names of parameters: a pattern (``*`` stands for any characters), several, or a function."""

EVERYTHING = "*"

LARGEST_DECAY = math.nextafter(1.0, 0.0)
"""The largest number below 1: an average with it still takes something new in."""

ONLY = "all"
"""The name of the optimizer, and of the average, of a module that has one of each."""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The numbers of one AdamW optimizer.

    Attributes:
        learning_rate: the peak: about how far an update moves each weight.
        betas: how much of the past is in the averages of gradients and of their squares.
        weight_decay: each update takes ``learning_rate * weight_decay`` of a weight away.
        max_grad_norm: longer gradients are scaled down to this length; 0 scales none.
        states: how its two averages are held: "float32", or "8bit" by torchao, in a quarter of the
            memory; with one rank.
        muon: patterns of names; what they choose and has two dimensions or more is moved by Muon
            instead (``longlive_recipes.training.muon``).
        muon_rate: Muon's learning rate at its peak; its updates are five times smaller than it.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    muon: tuple[str, ...] = ()
    muon_rate: float = 3e-3
    states: Literal["float32", "8bit"] = "float32"

    def __post_init__(self) -> None:
        real_field(
            self,
            "learning_rate",
            above=0,
            at_most=1,
            why="a step moves each weight about so far, and weights are below 1. Use 1e-3, say.",
        )
        betas, name = self.betas, type(self).__name__
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise ValueError(
                f"{name}.betas are two numbers, got {shown(betas)}: of the average of "
                f"gradients and of that of their squares. Use (0.9, 0.95), say."
            )
        first, second = (
            real(
                f"{name}.betas[{place}]",
                beta,
                at_least=0,
                at_most=LARGEST_DECAY,
                why="it is how much of the past is in an average, and at 1 nothing new would be. "
                "Use (0.9, 0.95), say.",
            )
            for place, beta in enumerate(betas)
        )
        object.__setattr__(self, "betas", (first, second))
        real_field(
            self,
            "weight_decay",
            at_least=0,
            at_most=1 / self.learning_rate,
            why="a step takes learning_rate * weight_decay of each weight away, and no more than "
            "all of it. Use 0.01, say.",
        )
        real_field(
            self,
            "max_grad_norm",
            at_least=0,
            why="longer gradients are cut to this length. Use 1.0, say, or 0 to cut none.",
        )
        choice_field(
            self,
            "states",
            ("float32", "8bit"),
            why="it is how the averages of gradients are held. Use float32.",
        )
        parts_field(self, "muon", str)
        if self.muon and self.states != "float32":
            raise ValueError(
                f"{name}.states={self.states} is for AdamW alone, and muon={shown(self.muon)} "
                f"moves some of the weights. Leave one of them out."
            )
        real_field(
            self,
            "muon_rate",
            above=0,
            at_most=1,
            why="an update moves each weight by about a fifth of it, and weights are below 1. Use "
            "3e-3, say.",
        )
        if not self.muon:
            refuse_idle(
                self,
                "muon_rate",
                AdamW.muon_rate,
                because="without muon AdamW moves all weights",
                way_out="Set muon",
            )


@dataclass(frozen=True, kw_only=True)
class Optimization(AdamW):
    """One AdamW that trains everything, and the moving average of what it trains.

    Attributes:
        ema_decay: how much of the past is in the averaged weights; 0 averages nothing.
    """

    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        real_field(
            self,
            "ema_decay",
            at_least=0,
            at_most=LARGEST_DECAY,
            why="it is how much of the past is in the averaged weights, and at 1 nothing is ever "
            "learnt. Use 0.999, say, or 0 for no average.",
        )

    def plan(self) -> "OptimizationPlan":
        """This optimizer and average, as a module takes them."""
        return OptimizationPlan(
            optimizers={ONLY: TrainedBy(adamw=self)},
            averages={ONLY: AverageOf(decay=self.ema_decay)},
        )


@dataclass(frozen=True, kw_only=True)
class TrainedBy:
    """One optimizer of a module.

    Attributes:
        adamw: its numbers.
        parameters: what it trains; frozen parameters are left out.
        rate: the curve of its learning rate, whose warm-up counts this optimizer's own updates;
            None takes that of the run's schedule.
    """

    adamw: AdamW
    parameters: Selection = EVERYTHING
    rate: LearningRateCurve | None = None


@dataclass(frozen=True, kw_only=True)
class AverageOf:
    """One exponential moving average of weights. It is kept in float32.

    It takes the weights in after every step in which an optimizer of theirs made an update, and
    weighs what it was with ``min(decay, (1 + n) / (10 + n))`` at the ``n``-th of those steps.

    Attributes:
        decay: how much of the past is in the average.
        parameters: which weights are averaged; frozen parameters are left out.
        evaluated: whether validation, samples and the model that is written use these averages in
            place of the weights. No weight can have two averages for that.
    """

    decay: float
    parameters: Selection = EVERYTHING
    evaluated: bool = True

    def __post_init__(self) -> None:
        real_field(
            self,
            "decay",
            at_least=0,
            at_most=LARGEST_DECAY,
            why="it is how much of the past is in an average, and at 1 nothing new would be. Use "
            "0.999, say.",
        )
        switch_field(self, "evaluated")


@dataclass(frozen=True, kw_only=True)
class OptimizationPlan:
    """The optimizers and averages of a module, by name.

    Attributes:
        optimizers: one or more; every trainable parameter belongs to exactly one.
        averages: any number.
        manual: the module's ``training_step`` says itself when each optimizer makes an update.
            None: where there are several optimizers.
        store_frozen: whether checkpoints hold frozen parameters, too. Without them a large base
            that is never trained is not written again and again; a run that is resumed takes it
            from where the module took it, which must not have changed.
    """

    optimizers: Mapping[str, TrainedBy]
    averages: Mapping[str, AverageOf] = field(default_factory=dict)
    manual: bool | None = None
    store_frozen: bool = True

    def __post_init__(self) -> None:
        switch_field(self, "store_frozen")
        if not self.optimizers:
            raise ValueError("a module has one optimizer or more, got none: nothing would train.")
        for name in (*self.optimizers, *self.averages):
            if not name.isidentifier():
                raise ValueError(
                    f"an optimizer and an average have a name of letters, digits and _, got "
                    f"{shown(name)}: files and columns of logs are named after it."
                )
        if self.manual is False and len(self.optimizers) > 1:
            raise ValueError(
                f"manual=False is for one optimizer, got {len(self.optimizers)}: with several, "
                f"training_step has to say when each makes an update. Leave manual out."
            )

    @property
    def is_manual(self) -> bool:
        """Whether ``training_step`` makes the updates."""
        return len(self.optimizers) > 1 if self.manual is None else self.manual

    def trained(self, module: nn.Module) -> dict[str, list[str]]:
        """The names of the parameters of each optimizer, in the module's order.

        Raises:
            ValueError: a trainable parameter belongs to no optimizer or to two, or an optimizer
                has nothing to train.
        """
        names = trainable(module)
        chosen = {
            optimizer: select(names, plan.parameters, f"optimizer {optimizer!r}")
            for optimizer, plan in self.optimizers.items()
        }
        owners = {
            name: [optimizer for optimizer, some in chosen.items() if name in set(some)]
            for name in names
        }
        if shared := {name: some for name, some in owners.items() if len(some) > 1}:
            name, (first, second, *_) = next(iter(shared.items()))
            raise ValueError(
                f"optimizers {first!r} and {second!r} both train {name} and {len(shared) - 1} "
                f"others: each weight is moved by one. Narrow the parameters of one of them."
            )
        if orphans := [name for name, some in owners.items() if not some]:
            raise ValueError(
                f"no optimizer trains {few(orphans)}: freeze these parameters "
                f"(requires_grad_(False)), or widen the parameters of an optimizer."
            )
        return chosen

    def averaged(self, module: nn.Module) -> dict[str, list[str]]:
        """The names of the parameters of each average, in the module's order.

        Raises:
            ValueError: an average has nothing to take in, or two that are evaluated share a weight.
        """
        names = trainable(module)
        chosen = {
            average: select(names, plan.parameters, f"average {average!r}")
            for average, plan in self.averages.items()
        }
        owner: dict[str, str] = {}
        for average, plan in self.averages.items():
            for name in chosen[average] if plan.evaluated else ():
                if name in owner:
                    raise ValueError(
                        f"averages {owner[name]!r} and {average!r} are both evaluated and both "
                        f"hold {name}: validation can use one of them. Set evaluated=False in the "
                        f"other."
                    )
                owner[name] = average
        return chosen


def frozen(module: nn.Module) -> list[str]:
    """The names of the parameters that are not trained."""
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


def trainable(module: nn.Module) -> list[str]:
    """The names of the parameters that are not frozen."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def select(names: Iterable[str], selection: Selection, owner: str) -> list[str]:
    """Those of ``names`` that a selection chooses, in their order.

    Raises:
        ValueError: it chooses none; ``owner`` says whose selection it is.
    """
    if callable(selection):
        chosen = [name for name in names if selection(name)]
    else:
        patterns = (selection,) if isinstance(selection, str) else selection
        chosen = [name for name in names if any(fnmatchcase(name, one) for one in patterns)]
    if not chosen:
        raise ValueError(
            f"{owner} has no parameters: {shown(selection)} fits none of the trainable ones "
            f"({few(list(names))}). Name others."
        )
    return chosen
