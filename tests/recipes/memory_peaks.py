"""The memory that a step of a real run takes on a CPU, by torch's profiler."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from longlive_recipes.training.fit import fit
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.profiled_memory import ProfiledPeak
from longlive_recipes.training.schedule import TrainingSchedule

MEASURED = 2
"""The step that is measured, from its beginning to that of the next."""

ENOUGH = TrainingSchedule(steps=MEASURED + 2, warmup_steps=1)
"""As many steps as a run has to have."""


def measured_peak(module: type[TrainingModule], config: Any) -> int:
    """Bytes within a step of a run, beyond what was there when it began.

    The run takes ``ENOUGH`` steps.
    """
    peak, found = ProfiledPeak(), []

    class Profiled(module):
        def training_step(self, step: int) -> dict[str, Tensor]:
            if step == MEASURED:
                peak.start()
            elif step == MEASURED + 1:
                found.append(peak.stop())
            return super().training_step(step)

    run = replace(config.run, checkpoint_minutes=60.0, validate_every=100)
    fit(Profiled(config), run, config)
    [most] = found
    return most
