"""Consistency distillation of an autoregressive model into one of few steps and without guidance.

The student begins as the teacher, on the same clips and under the same masks as AR training; its
target is the moving average of its own weights. The text encoder is the teacher's and stays.
Objective: longlive_models/objectives/consistency.py

Command:  longlive train ar_tiny && longlive train cm_tiny
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_models.diffusion import step_schedule
from longlive_models.objectives import consistency_errors, consistency_targets, draw_steps
from longlive_models.wan import WanTransformer
from longlive_recipes import train_ar
from longlive_recipes.configs.distill_cm import DistillCM as DistillCM
from longlive_recipes.configs.distill_cm import cm_tiny
from longlive_recipes.moving_shapes.dataset import TokenClips
from longlive_recipes.train_ar import Model, Random, TrainARModule
from longlive_recipes.training.fit import fit, load_average
from longlive_recipes.training.module import maybe_compile, start_from
from longlive_recipes.training.optimizers import ONLY

PRESETS = {"cm_tiny": cm_tiny}


class DistillCMModule(TrainARModule):
    """A student, its text encoder, which is frozen, and a teacher that no checkpoint holds."""

    config: DistillCM

    def __init__(self, config: DistillCM) -> None:
        super().__init__(config)
        self.levels = step_schedule(config.levels, config.shift)

    def configure_model(self) -> None:
        """The student and the teacher begin with the same weights."""
        if hasattr(self, "model"):
            return
        super().configure_model()
        self.text.requires_grad_(False)
        with torch.device("cpu"):
            teacher = WanTransformer(self.config.model)
        start_from(teacher, Path(self.config.start_from or "") / "transformer")
        self.teachers: tuple[nn.Module] = (teacher.requires_grad_(False).eval(),)
        self.teach = maybe_compile(teacher.forward, self.config.run.compile)

    def on_fit_start(self) -> None:
        self.teachers[0].to(self.device)
        super().on_fit_start()

    def losses(self, model: Model, clips: TokenClips, count: int, generator: Random) -> Tensor:
        """The consistency errors of each frame of ``count`` random clips, under their masks."""
        config = self.config
        some = clips.draw(count, generator)
        ids = self._drop(clips.ids[some], generator)
        steps = draw_steps(
            self.levels,
            generator,
            batch=count,
            frames=clips.positions.shape[1],
            frames_per_block=config.model.frames_per_block,
        )
        latents, noise = clips.latents[some].float(), self._noise(clips, count)
        empty = self.text.tokenize([""])[0].to(ids.device).expand_as(ids)
        text, negative = (self.text(one.flatten(0, 1)) for one in (ids, empty))
        text, negative = (one.unflatten(0, ids.shape[:2]) for one in (text, negative))
        mask, positions = clips.mask(some), clips.positions[some]
        with self.averages[ONLY].applied(self):
            targets = consistency_targets(
                latents,
                text,
                teacher=self.teach,
                target=model,
                negative=negative,
                guidance=config.teacher_guidance,
                noise=noise,
                steps=steps,
                levels=self.levels,
                mask=mask,
                positions=positions,
                context=latents + self._jitter(clips, count),
            )
        return consistency_errors(model, targets, text, mask=mask, positions=positions)


def check(config: DistillCM, *, resume: str | None = None) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written."""
    train_ar.check(config, resume=resume)


def run(config: DistillCM, *, resume: str | None = None) -> Path:
    """Distill, and write the model folder ``<output>/model``."""
    check(config, resume=resume)
    module = DistillCMModule(config)
    fit(module, config.run, config, resume=resume)
    return train_ar.write(module, module.steps_taken)


def export(config: DistillCM, *, resume: str) -> Path:
    """Write the model folder ``<output>/model`` of a checkpoint."""
    check(config, resume=resume)
    module = DistillCMModule(config)
    module.configure_model()
    return train_ar.write(module, load_average(module, resume))
