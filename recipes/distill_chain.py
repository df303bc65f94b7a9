"""The whole chain of a few-step model from one command, which goes on where it was stopped.

Autoregressive training on drawn clips in up to three stages, consistency, distribution matching on
the student's own videos, and packing in four bits. Stages that are complete are left as they are;
one that was stopped goes on from its checkpoint: the same command again is all that it takes.

Command:  longlive train pocket_chain
"""

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from longlive_models.checkpoints.hub import INDEX
from longlive_recipes import distill_cm, distill_dmd, quantize_weights, train_ar
from longlive_recipes.configs.distill_chain import DistillChain as DistillChain
from longlive_recipes.configs.distill_chain import pocket_chain, tiny_chain
from longlive_recipes.configs.quantize_weights import QuantizeWeights
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.training.ar_checks import check_data, spec_of
from longlive_recipes.training.checkpoint_files import CHECKPOINT, read_state
from longlive_recipes.training.checkpoint_layout import CLOCK, steps_in
from longlive_recipes.training.fit import check_run
from longlive_recipes.training.memory import MemoryPlan, shown_size
from longlive_recipes.training.run_checks import check_folder

PRESETS = {"pocket_chain": pocket_chain, "tiny_chain": tiny_chain}

PACKED = "packed"
"""The folder of the packed model, which is the chain's result."""

_log = logging.getLogger(__name__)


def check(config: DistillChain, *, resume: str | None = None) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written.

    A stage's inputs are there only once the one before is complete; the others are checked then.
    Clips of one's own are checked for all stages at once.
    """
    if resume is not None:
        raise ValueError(
            f"a chain needs no --resume: its stages are in {config.output}, and the same command "
            f"again goes on where it was stopped. To begin another chain, name another output."
        )
    check_folder("output", Path(config.output))
    for stage in config.stages:
        if stage.data is not None:
            check_data(stage, spec_of(stage).timing)
    for name, stage, module_check in _checks(config):
        if not is_complete(stage):
            module_check(_checkpoint_of(stage))
            return
        check_run(stage.run, stage, resume=stage.run.output, steps=stage.budget.steps)
        _log.info("stage %s is complete", name)


def run(config: DistillChain, *, resume: str | None = None) -> Path:
    """Run all stages that are not complete; returns the folder of the packed model."""
    check(config, resume=resume)
    for name, stage in zip(config.names, config.teachers, strict=False):
        if not is_complete(stage):
            train_ar.run(stage, resume=_begin(name, stage))
    cm, dmd = config.students
    if not is_complete(cm):
        distill_cm.run(cm, resume=_begin("cm", cm))
    if not is_complete(dmd):
        distill_dmd.run(dmd, resume=_begin("dmd", dmd))
    packed = Path(config.folder(PACKED))
    if not (packed / INDEX).is_file():
        _log.info("packing %s", packed)
        student = str(Path(dmd.run.output) / "model")
        wanted = QuantizeWeights(model=student, rule=config.rule, pack=config.pack)
        quantize_weights.run(wanted, packed)
    for name, stage in zip(config.names, config.stages, strict=True):
        _log.info("stage %s took %.1f minutes of training", name, _seconds(stage) / 60)
    return packed


@dataclass(frozen=True, kw_only=True)
class ChainMemory:
    """The memory of a chain's stages, which run one after another.

    Attributes:
        stages: of each by its name, in order.
    """

    stages: Mapping[str, MemoryPlan]

    @property
    def largest(self) -> str:
        """The name of the stage that takes most."""
        return max(self.stages, key=lambda name: self.stages[name].peak)

    @property
    def peak(self) -> int:
        """The most bytes of tensors at a time, in any stage."""
        return self.stages[self.largest].peak

    @property
    def about(self) -> str:
        """What the number is of, in words."""
        return f"stage {self.largest} takes most: {self.stages[self.largest].about}"

    def lines(self) -> list[str]:
        """A line a stage, and the largest by part."""
        wide = max(map(len, self.stages))
        rows = [
            f"  {name:{wide}}  {shown_size(plan.peak):>10}  {plan.about}"
            for name, plan in self.stages.items()
        ]
        largest = self.stages[self.largest]
        return [
            "predicted memory of a device, by stage:",
            *rows,
            f"the largest is {self.largest}:",
            *largest.lines(),
        ]


def predict(config: DistillChain) -> ChainMemory:
    """The memory of each stage. Raises ValueError as the stages' own recipes do."""
    cm, dmd = config.students
    plans = [*map(train_ar.predict, config.teachers), distill_cm.predict(cm)]
    plans.append(distill_dmd.predict(dmd))
    return ChainMemory(stages=dict(zip(config.names, plans, strict=True)))


def export(config: DistillChain, *, resume: str) -> Path:
    """Raise ValueError: a chain writes the models of all its stages by itself."""
    raise ValueError(
        f"a chain exports nothing: each stage in {config.output} has a folder model. Export a "
        f"stage's checkpoint with the stage's own recipe."
    )


def what_is_left(config: DistillChain, resume: str | None) -> str:
    """How a chain that was stopped can be gone on with, as a sentence."""
    done = [
        name for name, stage in zip(config.names, config.stages, strict=True) if is_complete(stage)
    ]
    kept = f"complete: {', '.join(done)}" if done else "no stage is complete"
    return f"{kept}; the same command again goes on where it was stopped."


def is_complete(stage: TrainAR) -> bool:
    """Whether a stage has run to its end and left a model."""
    checkpoint = Path(stage.run.output) / CHECKPOINT
    if not checkpoint.exists() or not (Path(stage.run.output) / "model" / INDEX).is_file():
        return False
    return stage.budget.progress(steps_in(read_state(checkpoint)), _seconds(stage)) >= 1


def _seconds(stage: TrainAR) -> float:
    state = read_state(Path(stage.run.output) / CHECKPOINT)
    seconds: float = state["callbacks"][CLOCK]["seconds"]
    return seconds


def _begin(name: str, stage: TrainAR) -> str | None:
    """Let go of the stage before; what this one goes on from, if it was begun."""
    gc.collect()
    torch.compiler.reset()  # compiled forwards of the stage before count towards torch's limit
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    resume = _checkpoint_of(stage)
    _log.info("stage %s %s", name, "begins" if resume is None else "goes on")
    return resume


def _checkpoint_of(stage: TrainAR) -> str | None:
    output = stage.run.output
    return output if (Path(output) / CHECKPOINT).exists() else None


def _checks(
    config: DistillChain,
) -> tuple[tuple[str, TrainAR, Callable[[str | None], None]], ...]:
    cm, dmd = config.students
    modules: list[Callable[[str | None], None]] = [
        *(partial(_check_ar, stage) for stage in config.teachers),
        lambda resume: distill_cm.check(cm, resume=resume),
        lambda resume: distill_dmd.check(dmd, resume=resume),
    ]
    return tuple(zip(config.names, config.stages, modules, strict=True))


def _check_ar(stage: TrainAR, resume: str | None) -> None:
    train_ar.check(stage, resume=resume)
