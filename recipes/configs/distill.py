"""What both kinds of distillation depend on: a teacher, its guidance, and a judge."""

from dataclasses import dataclass, field, replace

from longlive_models.objectives.guidance import Guidance
from longlive_models.settings import GenerationSettings
from longlive_recipes.configs.ar_options import refuse_options
from longlive_recipes.configs.checked import part_field, whole_field
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.configs.judge import Judged
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.training.optimizers import LARGEST_DECAY

MOST_LEVELS = 1000
MOST_DECAY = LARGEST_DECAY


@dataclass(frozen=True, kw_only=True)
class Distill(TrainAR):
    """A student of few steps and without guidance; the text encoder is its teacher's and stays.

    Both conventions of ``teacher_guidance`` are printed when a run begins.
    """

    teacher_guidance: Guidance = field(default_factory=lambda: Guidance(scale=2.0))
    levels: int = 48  # noise levels between which the teacher takes a step
    prompt_dropout: float = 0.0  # a student is run without guidance
    sampling_steps: int | tuple[int, ...] = 4
    guidance: float = 1.0
    judged: Judged = field(default_factory=Judged)

    def __post_init__(self) -> None:
        super().__post_init__()
        part_field(self, "teacher_guidance", Guidance)
        part_field(self, "judged", Judged)
        name = type(self).__name__
        if self.data is not None and self.judged.videos:
            refuse_idle(
                self,
                "judged",
                Judged(),
                because="the judge knows drawn clips, and on one's own (data) nothing is judged: "
                "the loss on clips that were kept back is measured, and the last model is written",
                way_out="Set judged.videos=0",
            )
        refuse_options(self, name)
        whole_field(
            self,
            "levels",
            at_least=1,
            at_most=MOST_LEVELS,
            why="the teacher takes one step between two neighbors of them. Use 48, say.",
        )
        if self.start_from is None:
            raise ValueError(
                f"{name}.start_from is the folder of a model, got none: it is the weights that "
                f"the student begins with. Use runs/ar_pocket/model, say."
            )
        for steps in self.steps_by_block:
            if self.levels % steps:
                raise ValueError(
                    f"{name}.sampling_steps divide levels, got {steps} of {self.levels}: else the "
                    f"student is run at noise levels that it never saw. Use "
                    f"levels={12 * steps}, say."
                )
        if self.guidance != 1:
            raise ValueError(
                f"{name}.guidance is 1, got {self.guidance:g}: the student has learnt that of "
                f"its teacher. Set teacher_guidance.scale."
            )

    @property
    def learns_words(self) -> bool:
        """The text encoder is the teacher's, and stays as it is."""
        return False

    @property
    def validates_on_clips(self) -> bool:
        """Where no judge looks at the student's videos."""
        return self.judged.videos == 0 or self.data is not None

    @property
    def teacher(self) -> str:
        """The folder of the teacher."""
        return self.start_from or ""

    @property
    def steps_by_block(self) -> tuple[int, ...]:
        """The student's steps of block 0, 1, ..; of all later blocks the last number."""
        steps = self.sampling_steps
        return steps if isinstance(steps, tuple) else (steps,)

    @property
    def generation(self) -> GenerationSettings:
        """How the student is meant to be run."""
        return replace(super().generation, sampler="few_step")
