"""What the modules of both distillations share: a frozen teacher, a target network, a judge."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longlive_models.diffusion import step_schedule
from longlive_models.objectives import consistency_errors, consistency_targets, draw_steps
from longlive_models.pipeline import LongLivePipeline
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.distill import Distill
from longlive_recipes.distillation.curve import BEST, MEASURED, JudgeCurve
from longlive_recipes.distillation.picture import draw_curve
from longlive_recipes.distillation.twins import twin
from longlive_recipes.moving_shapes.dataset import TokenClips
from longlive_recipes.run_record import replace_file
from longlive_recipes.train_ar import Model, Random, TrainARModule, write
from longlive_recipes.training.ar_parts import begin_with
from longlive_recipes.training.fit import fit
from longlive_recipes.training.module import maybe_compile
from longlive_recipes.training.parallel import Ranks, shard

CURVE = "curve.svg"
"""The file of a run's folder with the picture of its curve."""

JUDGE = "judge"
"""Under which a checkpoint holds what the judge has seen."""

_log = logging.getLogger(__name__)


class DistillModule(TrainARModule):
    """A student, its frozen text encoder, and networks that no checkpoint holds.

    Attributes:
        target: the name of the average that is the target network.
        teachers: the teacher, in a tuple, so that it is no part of the module.
        twins: the target network, whose weights are the average's own tensors; none where weights
            are sharded, and the student computes with the average in its place.
        curve: what the judge has seen; None where nothing is judged.
    """

    config: Distill
    target: str
    teachers: tuple[WanTransformer, ...] = ()
    twins: tuple[nn.Module, ...] = ()

    def __init__(self, config: Distill, ranks: Ranks | None = None) -> None:
        super().__init__(config, ranks)
        self.curve = None if config.validates_on_clips else JudgeCurve(config.judged)
        self.levels = step_schedule(config.levels, config.shift)
        self._frozen_forward = maybe_compile(WanTransformer.forward, config.run.compile)

    def configure_model(self) -> None:
        """The student, its target network and its teacher."""
        if hasattr(self, "model"):
            return
        super().configure_model()
        self.text.requires_grad_(False)
        self.add_networks()

    def add_networks(self) -> None:
        """The teacher and, on one rank, the target network."""
        teacher = self.load_teacher()
        self.teachers = (teacher.requires_grad_(False).eval(),)
        if self.ranks.world.size > 1:
            shard(teacher, teacher.blocks, self.ranks.world)
        else:
            self.twins = (twin(self.model),)

    def load_teacher(self) -> WanTransformer:
        """The teacher's weights in float32."""
        config = self.config
        with torch.device("cpu"):
            teacher = WanTransformer(config.model, gradient_checkpointing=config.checkpointing)
        begin_with(teacher, nn.Module(), config.teacher)
        return teacher

    def on_fit_start(self) -> None:
        for network in (*self.teachers, *self.twins):
            network.to(self.device)
        _log.info("the teacher's guidance is %s", self.config.teacher_guidance)
        super().on_fit_start()

    def frozen(self, network: nn.Module) -> Callable[..., Tensor]:
        """The forward pass of a network that is not trained."""
        if not self.twins and self.ranks.world.size > 1:  # with hooks that gather its weights
            return network.__call__
        return partial(self._frozen_forward, network)

    def losses(self, model: Model, clips: TokenClips, count: int, generator: Random) -> Tensor:
        """The consistency errors of each frame of ``count`` random clips that is this rank's."""
        config, ranks = self.config, self.ranks
        sp = self.exchange(clips.ids.shape[1], clips.tokens_per_frame)
        some = clips.draw(count, generator)
        ids = sp.shard_blocks(ranks.clips(self._drop(clips.ids[some], generator)), 1)
        steps = draw_steps(
            self.levels,
            generator,
            batch=count,
            frames=clips.positions.shape[1],
            frames_per_block=config.model.frames_per_block,
        )
        latents, noise = ranks.clips(clips.latents[some]).float(), self._noise(clips, count)
        text = self.text(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
        mask = clips.mask(ranks.clips(some))
        mask.prepare(self.device, 2 * len(latents))  # for both branches of guidance together
        positions = sp.shard(ranks.clips(clips.positions[some]), 1)
        teacher, target = self.frozen(self.teachers[0]), model
        if self.twins:
            self.averages[self.target].lend(self.twins[0], of="model")
            target = self.frozen(self.twins[0])
        if sp.group.size > 1:
            model, teacher, target = (partial(one, exchange=sp) for one in (model, teacher, target))
        with nullcontext() if self.twins else self.averages[self.target].applied(self):
            targets = consistency_targets(
                latents,
                text,
                teacher=teacher,
                target=target,
                negative=self.empty_prompt().expand_as(text),
                guidance=config.teacher_guidance,
                noise=noise,
                steps=sp.shard(ranks.clips(steps), 1),
                levels=self.levels,
                mask=mask,
                positions=positions,
                context=latents + self._jitter(clips, count),
            )
        return consistency_errors(model, targets, text, mask=mask, positions=positions)

    @torch.no_grad()
    def empty_prompt(self) -> Tensor:
        """The features of the prompt that guidance moves away from, [1, 1, length, width]."""
        return self.text.encode([""])[:, None].to(self.device)

    @property
    def measured(self) -> tuple[str, ...]:
        return super().measured if self.curve is None else MEASURED

    def validate(self) -> dict[str, float]:
        """What the judge sees; writes the model if it is the best so far, and the curve.

        Where nothing is judged: the loss on fresh clips, and the model is written each time.
        """
        if self.curve is None:
            return super().validate()
        options = RuntimeOptions(device=str(self.device))
        pipeline, folder = self.pipeline(options), Path(self.config.run.output)
        row: dict[str, float] = {}
        if pipeline is not None:
            with torch.autocast(self.device.type, enabled=False):  # as users run it
                if not self.curve.teacher:
                    teacher = LongLivePipeline.load(self.config.teacher, Runtime.choose(options))
                    self.curve.judge_teacher(teacher)
                row = self.curve.judge(pipeline, self.steps_taken)
            picture = draw_curve(self.curve.rows, self.curve.teacher, row[BEST])
            replace_file(folder / CURVE, picture)
        if self.ranks.agree(bool(row) and row[BEST] == self.steps_taken):
            self.export(folder / "model", self.steps_taken)
        return row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.curve is not None:
            checkpoint[JUDGE] = self.curve.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.curve is not None and JUDGE in checkpoint:
            self.curve.load_state_dict(checkpoint[JUDGE])


def run_distillation(module: DistillModule, *, resume: str | None = None) -> Path:
    """Train; the folder of the best student, or of the last one where nothing is judged."""
    config = module.config
    fit(module, config.run, config, resume=resume, parallel=config.parallel)
    if module.curve is None:
        return write(module, module.steps_taken)
    return Path(config.run.output) / "model"
