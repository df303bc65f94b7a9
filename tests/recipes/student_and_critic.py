"""A module of two optimizers that takes a second to train: a student, and a critic on one base.

The critic learns alone at first, then five updates to one of the student; its gradients are added
up over two halves of a batch. Student and critic have an average each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from longlive_models.stream import Video
from longlive_recipes.configs.run import Run
from longlive_recipes.training.fit import fit
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.optimizers import AdamW, AverageOf, OptimizationPlan, TrainedBy
from longlive_recipes.training.parallel import Parallel, Ranks, shard
from longlive_recipes.training.schedule import LearningRateCurve, TrainingSchedule
from tests.recipes.on_ranks import launched, whole
from tests.recipes.tiny_runs import Stopped, quiet_run, stop_at

WARMUP = 2
RATIO = 5
STEPS = 13
STUDENT = AdamW(learning_rate=0.05, betas=(0.0, 0.99), max_grad_norm=0.3)
CRITIC = AdamW(learning_rate=0.1, max_grad_norm=0.5)
STUDENT_RATE = LearningRateCurve(warmup_updates=2, final_rate=0.5)
DECAYS = {"student": 0.9, "critic_weight": 0.15}


def is_critics(name: str) -> bool:
    return name.startswith("critic.")


PLAN = OptimizationPlan(
    optimizers={
        "student": TrainedBy(adamw=STUDENT, parameters="student.*", rate=STUDENT_RATE),
        "critic": TrainedBy(adamw=CRITIC, parameters=is_critics),
    },
    averages={
        "student": AverageOf(decay=DECAYS["student"], parameters="student.*"),
        "critic_weight": AverageOf(
            decay=DECAYS["critic_weight"], parameters=("critic.w*",), evaluated=False
        ),
    },
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student and a critic."""

    run: Run
    budget: TrainingSchedule = field(
        default_factory=lambda: TrainingSchedule(steps=STEPS, warmup_steps=3)
    )
    seed: int = 3


def trains_student(step: int) -> bool:
    return step >= WARMUP and step % RATIO == 0


class PairModule(TrainingModule):
    """``before`` is called with every step's number."""

    def __init__(
        self,
        config: Pair,
        before: Callable[[int], None] = lambda step: None,
        plan: OptimizationPlan = PLAN,
    ) -> None:
        super().__init__(config.budget, plan, config.seed)
        self.base, self.student, self.critic = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)
        self.base.requires_grad_(False)
        self.before = before
        self.is_sharded = False

    def configure_model(self) -> None:
        if self.device_mesh is not None and not self.is_sharded:
            self.is_sharded = True
            for part in (self.base, self.student, self.critic):
                shard(part, (), Ranks.of(self.device_mesh).world)

    def training_step(self, step: int) -> dict[str, Tensor]:
        self.before(step)
        x = torch.rand(8, 3, generator=self.choices(step)) + 0.1 * torch.randn(8, 3)
        logged = {}
        if trains_student(step):
            with self.update("student") as backward:
                loss = student_loss(self, x)
                backward(loss)
            logged["student_loss"] = loss
        with self.update("critic") as backward:
            losses = [critic_loss(self, half) / 2 for half in x.chunk(2)]
            for loss in losses:
                backward(loss)
        return {"critic_loss": sum(losses), **logged}

    def validate(self) -> dict[str, float]:
        sums = [float(whole(part.weight.detach()).sum()) for part in (self.student, self.critic)]
        return dict(zip(("student", "critic"), sums, strict=True))

    def samples(self) -> dict[str, Video]:
        return {}


def student_loss(parts: Any, x: Tensor) -> Tensor:
    """Gradients go through the critic."""
    return (parts.critic(parts.student(parts.base(x)).tanh()) - 1).square().mean()


def critic_loss(parts: Any, x: Tensor) -> Tensor:
    return (parts.critic(parts.student(parts.base(x)).detach().tanh()) - x[:, :2]).square().mean()


def train_pair(
    folder: Path,
    *,
    stop: int | None = None,
    resume: Path | None = None,
    parallel: Parallel | None = None,
    plan: OptimizationPlan = PLAN,
) -> None:
    """A whole run, or one that is stopped before step ``stop`` is taken."""
    config = Pair(run=quiet_run(folder))
    before = stop_at(STEPS if stop is None else stop)
    module = PairModule(config, before, plan)
    named = None if resume is None else str(resume)
    try:
        fit(module, config.run, config, resume=named, parallel=parallel)
    except Stopped:
        assert stop is not None


def train_pair_on_ranks(
    group: dist.ProcessGroup,
    folder: str,
    stop: int | None,
    resume: str | None,
    store_frozen: bool = True,
) -> None:
    """``train_pair`` on one of two ranks."""
    with launched(group):
        train_pair(
            Path(folder),
            stop=stop,
            resume=None if resume is None else Path(resume),
            parallel=Parallel(data=2),
            plan=replace(PLAN, store_frozen=store_frozen),
        )
