"""Consistency distillation of an autoregressive model into one of few steps and without guidance.

The student begins as the teacher, on the same clips and under the same masks as AR training; its
target is a quick moving average of its own weights. The text encoder is the teacher's and stays.
What the judge sees of the student is in ``validation.csv`` and ``curve.svg``, and the best is kept.
Objective: longlive_models/objectives/consistency.py

Command:  longlive train ar_pocket_spins && longlive train cm_pocket
"""

from dataclasses import replace
from pathlib import Path

from longlive_recipes import train_ar
from longlive_recipes.configs.distill_cm import TARGET, cm_5b, cm_pocket, cm_tiny
from longlive_recipes.configs.distill_cm import DistillCM as DistillCM
from longlive_recipes.distillation.checks import check_teacher
from longlive_recipes.distillation.memory import what_fits as what_fits
from longlive_recipes.distillation.module import DistillModule, run_distillation
from longlive_recipes.distillation.step_memory import predict_cm
from longlive_recipes.training.fit import load_average
from longlive_recipes.training.memory import MemoryPlan
from longlive_recipes.training.parallel import Parallel

PRESETS = {"cm_pocket": cm_pocket, "cm_tiny": cm_tiny, "cm_5b": cm_5b}


class DistillCMModule(DistillModule):
    """A student that learns by consistency alone; its losses are those of ``DistillModule``."""

    config: DistillCM
    target = TARGET


def check(config: DistillCM, *, resume: str | None = None) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written."""
    train_ar.check(config, resume=resume)
    check_teacher(config)


def predict(config: DistillCM) -> MemoryPlan:
    """The memory of a run on each of its devices. Raises ValueError without its VAE."""
    return predict_cm(config)


def run(config: DistillCM, *, resume: str | None = None) -> Path:
    """Distill; the folder ``<output>/model`` has the best student that the judge has seen."""
    check(config, resume=resume)
    return run_distillation(DistillCMModule(config), resume=resume)


def export(config: DistillCM, *, resume: str) -> Path:
    """Write the model folder ``<output>/model`` of a checkpoint."""
    check(config, resume=resume)
    module = DistillCMModule(replace(config, parallel=Parallel()))
    module.configure_model()
    return train_ar.write(module, load_average(module, resume))
