"""What distribution matching distillation depends on: its config, its checks, its presets."""

from dataclasses import dataclass, field, replace
from typing import Literal

from longlive_core.checks import shown
from longlive_models.lora_config import LoRAConfig
from longlive_models.objectives.dmd import ScoreTimesteps
from longlive_recipes.configs.checked import (
    choice_field,
    part_field,
    real_field,
    switch_field,
    text_field,
    whole_field,
)
from longlive_recipes.configs.distill import Distill
from longlive_recipes.configs.distill_cm import BLOCKS_5B, cm_5b, cm_pocket, cm_tiny
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.configs.judge import Judged
from longlive_recipes.configs.run import Run
from longlive_recipes.training.optimizers import (
    AdamW,
    AverageOf,
    Optimization,
    OptimizationPlan,
    TrainedBy,
)
from longlive_recipes.training.schedule import MOST_STEPS, Phase, TrainingSchedule

STUDENT, CRITIC = "student", "critic"
"""The names of the two optimizers; the average is the student's."""

SCORES = ("given_past", "whole")
BASES = ("fp32", "bf16", "nvfp4")
TARGETS = LoRAConfig().targets
MOST_BLOCKS = 1000


@dataclass(frozen=True, kw_only=True)
class DistillDMD(Distill):
    """A student that makes its own videos, and a critic that learns what they look like.

    A step is an update of the critic, and every ``critic_updates``-th one of the student as well.
    A phase's ``length`` is of the clips whose prompts are drawn; ``batch`` videos are made at once.
    With ``lora_rank`` student and critic are adapters beside frozen weights: the student beside
    those of ``start_from``, the critic beside the teacher's, which are held once where
    ``start_from`` and ``teacher_from`` are the same.
    """

    start_from: str | None = "runs/cm_pocket/model"
    teacher_from: str = "runs/ar_pocket_spins/model"
    rollout_blocks: int = 6  # of each video; beyond the window
    trained_blocks: int | None = None  # of those the last, with gradients; all unless given
    replay: bool = False  # make the student's video twice: gradients of one block at a time
    same_exit_step: bool = True  # blocks of a video are made by the same share of their steps
    scores: Literal["given_past", "whole"] = "given_past"  # what blocks are scored after
    timesteps: ScoreTimesteps = field(default_factory=ScoreTimesteps)
    critic_updates: int = 5  # for each of the student
    critic_warmup: int = 100  # updates of the critic before the first of the student
    pull: float = 0.0  # weight of the consistency loss on clips, which keeps a student near them
    lora_rank: int = 0  # 0 trains all weights
    lora_alpha: float | None = None  # the rank unless given
    lora_targets: tuple[str, ...] = TARGETS
    lora_from: str | None = None  # an adapter's folder that the student begins with
    base: Literal["fp32", "bf16", "nvfp4"] = "fp32"  # how the frozen base is held
    critic: AdamW = field(
        default_factory=lambda: AdamW(
            learning_rate=5e-5, betas=(0.0, 0.999), weight_decay=0.0, max_grad_norm=10.0
        )
    )
    optimization: Optimization = field(
        default_factory=lambda: Optimization(
            learning_rate=5e-5,
            betas=(0.0, 0.999),
            weight_decay=0.0,
            max_grad_norm=10.0,
            ema_decay=0.99,
        )
    )
    run: Run = field(default_factory=lambda: Run(output="runs/dmd_pocket"))

    def __post_init__(self) -> None:
        super().__post_init__()
        part_field(self, "timesteps", ScoreTimesteps)
        part_field(self, "critic", AdamW)
        text_field(self, "teacher_from")
        text_field(self, "lora_from", optional=True)
        switch_field(self, "replay", "same_exit_step")
        choice_field(self, "scores", SCORES, why="teachers of teacher forcing know given_past.")
        choice_field(self, "base", BASES, why="it is how a frozen base is held. Use fp32.")
        self._check_counts()
        self._check_adapters()
        most = max(self.steps_by_block)
        if wrong := [steps for steps in self.steps_by_block if most % steps]:
            raise ValueError(
                f"DistillDMD.sampling_steps divide the largest of them, got {wrong[0]} beside "
                f"{most}: the noise levels of {wrong[0]} steps are not among those of {most}, "
                f"which the student knows. Use 4,2,2, say."
            )
        self._check_sequence()
        if self.in_few_bits and self.parallel.ranks > 1:
            raise ValueError(
                f"DistillDMD.quantized and float8 are for one rank, got {self.parallel.ranks}: "
                f"rounding would differ between ranks. Leave them out, or parallel."
            )

    def _check_sequence(self) -> None:
        """Raise ValueError where more ranks share a video than it, or a block, has parts."""
        ranks, wan = self.parallel.sequence, self.model
        parts = {
            "rollout_blocks": self.rollout_blocks,
            "model.frames_per_block": wan.frames_per_block,
            "model.num_heads": wan.num_heads,
        }
        for name, count in parts.items():
            if ranks > count:
                raise ValueError(
                    f"DistillDMD.parallel.sequence={ranks} is more than {name}={count}: ranks that "
                    f"share a video compute its blocks, the frames of each and attention's heads. "
                    f"Use {count} or fewer, or set parallel.data."
                )

    def _check_counts(self) -> None:
        for name, least in (("critic_updates", 1), ("critic_warmup", 0)):
            why = "the critic makes so many updates for one of the student. Use 5, say."
            whole_field(self, name, at_least=least, at_most=MOST_STEPS, why=why)
        why = "a student that never saw its own past drop out of the window goes dark later."
        whole_field(
            self,
            "rollout_blocks",
            at_least=self.window.pages + 1,
            at_most=MOST_BLOCKS,
            why=f"its window shows {self.window.pages}: {why} Use {self.window.pages + 2}, say.",
        )
        if self.trained_blocks is not None:
            whole_field(
                self,
                "trained_blocks",
                at_least=1,
                at_most=self.rollout_blocks,
                why=f"videos have {self.rollout_blocks} blocks. Leave it out for all.",
            )
        why = "it weighs the consistency loss against 1. Use 0.25, say, or 0 for none."
        real_field(self, "pull", at_least=0, at_most=1000, why=why)
        if not self.pull:
            for name in ("prompt_dropout", "word_dropout", "context_jitter"):
                refuse_idle(
                    self,
                    name,
                    type(self).__dataclass_fields__[name].default,
                    0,
                    because="it is of clips that are learned from, and without pull there are none",
                    way_out="Set pull",
                )
        if self.critic_warmup >= self.budget.steps:
            raise ValueError(
                f"DistillDMD.critic_warmup is below budget.steps, got {self.critic_warmup} of "
                f"{self.budget.steps}: the student would never learn. Lower it."
            )

    def _check_adapters(self) -> None:
        why = "0 trains all weights. Use 64, say."
        whole_field(self, "lora_rank", at_least=0, at_most=1 << 16, why=why)
        if self.lora_rank:
            object.__setattr__(self, "lora_targets", self.lora.targets)  # checks all three
            if self.in_few_bits:
                raise ValueError(
                    "DistillDMD.quantized and float8 are for training all weights, got lora_rank="
                    f"{self.lora_rank}, whose base is frozen. Set base=nvfp4."
                )
            return
        if self.lora_from is not None:
            raise ValueError(
                f"DistillDMD.lora_from={self.lora_from!r} is an adapter, and lora_rank=0 trains "
                f"all weights. Set lora_rank to its rank."
            )
        for name, usual in (("lora_alpha", None), ("lora_targets", TARGETS)):
            if (value := vars(self)[name]) != usual:
                raise ValueError(
                    f"DistillDMD.{name}={shown(value)} is of adapters, and lora_rank=0 trains all "
                    f"weights. Set lora_rank, or leave {name} out."
                )
        if self.base != "fp32":
            raise ValueError(
                f"DistillDMD.base={self.base} is for a frozen base, and lora_rank=0 trains it: "
                f"weights that are moved a little at a time are kept in float32, or small moves "
                f"are lost. Set lora_rank, or leave base out."
            )

    @property
    def teacher(self) -> str:
        return self.teacher_from

    @property
    def learns_from_clips(self) -> bool:
        """Where ``pull`` holds the student near them."""
        return self.pull > 0

    @property
    def one_base(self) -> bool:
        """Whether the student starts from the teacher's weights."""
        return self.start_from == self.teacher_from

    @property
    def lora(self) -> LoRAConfig:
        """The adapters of student and critic."""
        alpha = float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha
        return LoRAConfig(rank=self.lora_rank, alpha=alpha, targets=self.lora_targets)

    @property
    def plan(self) -> OptimizationPlan:
        """Two optimizers and the student's average; a frozen base is in no checkpoint."""
        decay = self.optimization.ema_decay
        return OptimizationPlan(
            optimizers={
                STUDENT: TrainedBy(adamw=self.optimization, parameters="model.*"),
                CRITIC: TrainedBy(adamw=self.critic, parameters="critic.*"),
            },
            averages={STUDENT: AverageOf(decay=decay, parameters="model.*")},
            store_frozen=not self.lora_rank,
        )

    def trains_student(self, step: int) -> bool:
        """Whether the student is updated in step ``step``, counted from 0."""
        return step >= self.critic_warmup and step % self.critic_updates == 0


def dmd_pocket() -> DistillDMD:
    """The student of cm_pocket on its own videos of six blocks: six minutes on one GPU."""
    before = cm_pocket()
    return DistillDMD(
        shift=before.shift,
        teacher_guidance=before.teacher_guidance,
        sets=before.sets,
        phases=(Phase(length=6, batch=24, until=1.0),),
        critic_warmup=60,
        critic=AdamW(learning_rate=1e-4, betas=(0.0, 0.999), weight_decay=0.0, max_grad_norm=10.0),
        budget=TrainingSchedule(steps=1_600, minutes=6, warmup_steps=20, final_rate=0.2),
        run=Run(output="runs/dmd_pocket", validate_every=200, samples_every=2),
        seed=before.seed,
    )


def dmd_5b() -> DistillDMD:
    """LongLive-2.0's step on Wan2.2-5B: adapters of student and critic, 96 latents."""
    base = cm_5b()
    return DistillDMD(
        model=base.model,
        text=base.text,
        vae=base.vae,
        world=base.world,
        width=base.width,
        sets=(),
        shift=base.shift,
        start_from=base.start_from,
        teacher_from=base.start_from or "",
        teacher_guidance=base.teacher_guidance,
        scores="whole",
        rollout_blocks=BLOCKS_5B,
        replay=True,
        lora_rank=128,
        base="bf16",
        phases=base.phases,
        checkpointing=True,
        parallel=base.parallel,
        validation_clips=base.validation_clips,
        sample_prompts=base.sample_prompts,
        critic=AdamW(learning_rate=2e-6, betas=(0.0, 0.999), weight_decay=0.0, max_grad_norm=10.0),
        optimization=Optimization(
            learning_rate=1e-5,
            betas=(0.0, 0.999),
            weight_decay=0.0,
            max_grad_norm=10.0,
            ema_decay=0.99,
        ),
        budget=TrainingSchedule(steps=5_000, warmup_steps=0, final_rate=1.0),
        run=replace(base.run, output="runs/dmd_5b"),
    )


def dmd_tiny() -> DistillDMD:
    """A few steps on a CPU, after those of cm_tiny."""
    tiny = cm_tiny()
    return DistillDMD(
        start_from="runs/cm_tiny/model",
        teacher_from="runs/ar_tiny/model",
        levels=tiny.levels,
        model=tiny.model,
        text=tiny.text,
        world=tiny.world,
        sets=tiny.sets,
        phases=tuple(replace(phase, batch=2) for phase in tiny.phases),
        rollout_blocks=5,
        critic_updates=2,
        critic_warmup=2,
        validation_clips=tiny.validation_clips,
        sample_prompts=tiny.sample_prompts,
        sample_seconds=tiny.sample_seconds,
        sampling_steps=tiny.sampling_steps,
        judged=Judged(videos=2, seconds=1.0, batch=2, threads=1),
        budget=TrainingSchedule(steps=6, warmup_steps=1),
        run=replace(tiny.run, output="runs/dmd_tiny", validate_every=6),
    )
