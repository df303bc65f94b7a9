"""The memory that a step of a real run takes on a CPU, by torch's profiler."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from longlive_recipes.training.fit import fit
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.schedule import TrainingSchedule

MEASURED = 2
"""The step that is measured, from its beginning to that of the next."""

ENOUGH = TrainingSchedule(steps=MEASURED + 2, warmup_steps=1)
"""As many steps as a run has to have."""


def measured_peak(module: type[TrainingModule], config: Any, file: Path) -> int:
    """Bytes within a step of a run, beyond what was there when it began.

    The run takes ``ENOUGH`` steps, and writes what torch's allocator did in one of them to a file.
    """

    class Profiled(module):
        def training_step(self, step: int) -> dict[str, Tensor]:
            if step == MEASURED:
                self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
                self.profile.__enter__()
            elif step == MEASURED + 1:
                self.profile.__exit__(None, None, None)
            return super().training_step(step)

    made = Profiled(config)
    fit(made, replace(config.run, checkpoint_minutes=60.0, validate_every=100), config)
    made.profile.export_chrome_trace(str(file))
    events = json.loads(file.read_text())["traceEvents"]
    events = [e["args"] | {"ts": e["ts"]} for e in events if e.get("name") == "[memory]"]
    alive: dict[int, int] = {}
    now = peak = 0
    for event in sorted(events, key=lambda e: (e["ts"], e["Ev Idx"])):
        if event["Bytes"] > 0:
            alive[event["Addr"]] = event["Bytes"]
            now += event["Bytes"]
        else:
            now -= alive.pop(event["Addr"], 0)
        peak = max(peak, now)
    return peak
