"""The memory of a distillation's steps: rehearsed as AR training's are, partly by arithmetic."""

from longlive_recipes.configs.distill_cm import DistillCM
from longlive_recipes.configs.distill_dmd import DistillDMD
from longlive_recipes.distillation.memory import needs_of, tokens_of_a_block
from longlive_recipes.training import ar_memory
from longlive_recipes.training.memory import FLOAT32, LIBRARIES, MemoryPlan, StepMemory


def predict_cm(config: DistillCM) -> MemoryPlan:
    """The memory of consistency distillation on each device: the student's pass takes most.

    Raises:
        ValueError: there is no such VAE, or no such cache of clips.
    """
    weights = FLOAT32 * config.model.parameters
    beside = {"the teacher": weights, "the target network": weights}
    return ar_memory.predict(config, reads_only=True, beside=beside)


def predict_dmd(config: DistillDMD) -> MemoryPlan:
    """The memory of distribution matching on each device: its larger update.

    The critic's is rehearsed. The student's is counted by arithmetic, as ``memory.what_fits`` does;
    so is what lasts, a gradient of each weight that is trained among it.

    Raises:
        ValueError: there is no such VAE.
    """
    needs = needs_of(config, 1)
    videos = max(1, max(phase.batch for phase in config.phases) // config.parallel.data)
    copies = 2 if config.scores == "given_past" else 1
    blocks = config.rollout_blocks
    critic = ar_memory.rehearsed_pass(config, clips=videos, blocks=blocks, copies=copies)
    critic = StepMemory(kept=critic.kept, gradients=0, passing=critic.passing)
    numbers = 2 if config.run.precision == "32-true" else 1  # of those that are counted in bf16
    student = int(numbers * videos * needs.each["the student's update"])
    alone = StepMemory(kept=student, gradients=0, passing=0)
    lasting = {name: int(size) for name, size in needs.fixed.items()}
    if config.run.accelerator != "cpu":
        lasting["libraries"] = LIBRARIES
    larger = max((critic, "critic"), (alone, "student"), key=lambda one: one[0].total)
    return MemoryPlan(
        lasting=lasting,
        step=larger[0],
        update={},
        tokens=videos * copies * blocks * tokens_of_a_block(config),
        about=f"{videos} videos of {blocks} blocks at a time, an update of the {larger[1]}",
    )
