"""What consistency distillation depends on: its config, its checks, and the presets' values."""

from dataclasses import dataclass, field, replace

from longlive_models.objectives.guidance import Guidance
from longlive_models.settings import GenerationSettings
from longlive_recipes.configs.checked import part_field, whole_field
from longlive_recipes.configs.run import Run
from longlive_recipes.configs.train_ar import TrainAR, ar_tiny
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.schedule import TrainingSchedule

MOST_LEVELS = 1000


@dataclass(frozen=True, kw_only=True)
class DistillCM(TrainAR):
    """As AR training, but for the objective. ``start_from`` is the teacher, and where to begin.

    The average of the weights is the target network, and the model that is written.
    """

    start_from: str | None = "runs/ar_pocket/model"
    teacher_guidance: Guidance = field(default_factory=lambda: Guidance(scale=2.0))
    levels: int = 48  # noise levels between which the teacher takes a step
    prompt_dropout: float = 0.0  # a student is run without guidance
    sampling_steps: int = 4
    guidance: float = 1.0
    optimization: Optimization = field(
        default_factory=lambda: Optimization(learning_rate=1e-4, weight_decay=0.0, ema_decay=0.95)
    )
    run: Run = field(default_factory=lambda: Run(output="runs/cm_pocket", compile=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        part_field(self, "teacher_guidance", Guidance)
        whole_field(
            self,
            "levels",
            at_least=1,
            at_most=MOST_LEVELS,
            why="the teacher takes one step between two neighbors of them. Use 48, say.",
        )
        if self.start_from is None:
            raise ValueError(
                "DistillCM.start_from is the folder of a model, got none: it is the teacher, and "
                "the weights that the student begins with. Use runs/ar_pocket/model, say."
            )
        if self.levels % self.sampling_steps:
            raise ValueError(
                f"DistillCM.sampling_steps divide levels, got {self.sampling_steps} of "
                f"{self.levels}: else the student is run at noise levels that it never saw. Use "
                f"levels={12 * self.sampling_steps}, say."
            )
        if self.guidance != 1:
            raise ValueError(
                f"DistillCM.guidance is 1, got {self.guidance:g}: the student has learnt that of "
                f"its teacher. Set teacher_guidance.scale."
            )
        if self.quantized.quantizes or self.parallel.ranks > 1:
            raise ValueError(
                "consistency distillation runs on one rank with linears as they are, got "
                "another quantized or parallel: the teacher beside the student is neither packed "
                "nor sharded. Leave both out."
            )

    @property
    def generation(self) -> GenerationSettings:
        """How the student is meant to be run."""
        return replace(super().generation, sampler="few_step")


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
        budget=TrainingSchedule(steps=4, warmup_steps=1),
        run=replace(tiny.run, output="runs/cm_tiny"),
    )
