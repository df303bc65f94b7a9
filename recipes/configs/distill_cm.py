"""What consistency distillation depends on: its config, its checks, and the presets' values."""

from dataclasses import dataclass, field, replace

from longlive_models.objectives.guidance import Guidance
from longlive_recipes.configs.checked import real_field
from longlive_recipes.configs.distill import MOST_DECAY, Distill
from longlive_recipes.configs.judge import Judged
from longlive_recipes.configs.run import Run
from longlive_recipes.configs.train_ar import ar_5b, ar_pocket_long, ar_tiny
from longlive_recipes.training.optimizers import AverageOf, Optimization, OptimizationPlan
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.schedule import Phase, TrainingSchedule

BLOCKS_5B = 12
"""Blocks of 8 latents in the original's clips of 96."""

TARGET = "target"
"""The name of the average that is the target network."""


@dataclass(frozen=True, kw_only=True)
class DistillCM(Distill):
    """As AR training, but for the objective. ``start_from`` is the teacher, and where to begin.

    The student is drawn to what its target network, a quick average of its own weights, says one
    step further on. The model that is written has a slower average (``optimization.ema_decay``).
    """

    start_from: str | None = "runs/ar_pocket_spins/model"
    target_decay: float = 0.95  # how much of the past is in the target network
    optimization: Optimization = field(
        default_factory=lambda: Optimization(learning_rate=2e-4, weight_decay=0.0, ema_decay=0.995)
    )
    run: Run = field(default_factory=lambda: Run(output="runs/cm_pocket"))

    def __post_init__(self) -> None:
        super().__post_init__()
        real_field(
            self,
            "target_decay",
            at_least=0,
            at_most=MOST_DECAY,
            why="it is how much of the past is in the target network, and at 1 it would never "
            "follow the student. Use 0.95, say, or 0 for the student itself.",
        )
        if self.in_few_bits and self.parallel.ranks > 1:
            raise ValueError(
                "consistency distillation in four or eight bits runs on one rank, got "
                f"{self.parallel.ranks}: the target network is the student's twin. Leave quantized "
                "and float8 out, or parallel."
            )

    @property
    def plan(self) -> OptimizationPlan:
        """One optimizer, the average that is written, and the target network."""
        plan = self.optimization.plan()
        target = AverageOf(decay=self.target_decay, evaluated=False)
        return replace(plan, averages={**plan.averages, TARGET: target})


def cm_pocket() -> DistillCM:
    """The pocket model in four steps and without guidance, after ar_pocket_spins: six minutes."""
    teacher = ar_pocket_long()
    return DistillCM(
        shift=teacher.shift,
        teacher_guidance=Guidance(scale=2.0, together=True),
        sets=tuple(replace(one, clips=3_000) for one in teacher.sets if one.blocks == 6),
        phases=(Phase(length=6, batch=12, until=1.0),),
        budget=TrainingSchedule(steps=4_000, minutes=6, warmup_steps=100, final_rate=0.1),
        run=Run(output="runs/cm_pocket", validate_every=500, samples_every=4),
        seed=teacher.seed,
    )


def cm_5b() -> DistillCM:
    """The published 5B on clips of one's own, 704x1280: --dry-run says which GPUs it fits."""
    base = ar_5b()
    return DistillCM(
        model=base.model,
        text=base.text,
        vae=base.vae,
        world=base.world,
        width=base.width,
        sets=(),
        start_from=base.start_from,
        shift=base.shift,
        teacher_guidance=Guidance(scale=3.0, convention="from_conditional"),
        phases=(Phase(length=BLOCKS_5B, batch=8, until=1.0),),
        word_dropout=0.0,
        context_jitter=0.0,
        checkpointing=True,
        parallel=Parallel(data=8),
        validation_clips=8,
        sample_prompts=(),
        budget=TrainingSchedule(steps=3_000, warmup_steps=100),
        optimization=Optimization(learning_rate=2e-6, weight_decay=0.0, ema_decay=0.99),
        run=replace(base.run, output="runs/cm_5b"),
    )


def cm_tiny() -> DistillCM:
    """A few steps on a CPU, after those of ar_tiny."""
    tiny = ar_tiny()
    return DistillCM(
        start_from="runs/ar_tiny/model",
        levels=8,
        model=tiny.model,
        text=tiny.text,
        world=tiny.world,
        sets=tiny.sets,
        phases=tiny.phases,
        validation_clips=tiny.validation_clips,
        sample_prompts=tiny.sample_prompts,
        sample_seconds=tiny.sample_seconds,
        sampling_steps=tiny.sampling_steps,
        judged=Judged(videos=2, seconds=1.0, batch=2, threads=1),
        budget=TrainingSchedule(steps=4, warmup_steps=1),
        run=replace(tiny.run, output="runs/cm_tiny"),
    )
