"""How long a run lasts: a number of steps, a number of minutes, or whichever ends first."""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The length of a run and the shape of its learning rate.

    ``progress`` (0 at the start, 1 at the end) drives the learning rate and the phases, so a run
    with ``minutes`` set ends its schedule properly on hardware of any speed.
    """

    steps: int = 1000
    minutes: float | None = None
    warmup_steps: int = 100
    final_rate: float = 0.02  # the learning rate at the end, as a share of the peak

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a run needs at least one step, got steps={self.steps}.")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(
                f"minutes={self.minutes} leaves no time to train: give a positive number, "
                f"or leave it out to run all {self.steps} steps."
            )

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that is over after ``step`` steps and ``seconds`` seconds."""
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return min(1.0, max(step / self.steps, by_time))

    def rate(self, step: int, progress: float) -> float:
        """The learning rate as a share of its peak: linear warm-up, then half a cosine."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * (self.final_rate + (1 - self.final_rate) * cosine)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run: clips of ``length`` (the recipe says in which unit), ``batch`` at a time."""

    length: int
    batch: int
    until: float  # the progress at which the next phase begins

    def __post_init__(self) -> None:
        if self.length < 1 or self.batch < 1 or not 0 < self.until <= 1:
            raise ValueError(
                f"a phase needs length >= 1, batch >= 1 and 0 < until <= 1, got "
                f"length={self.length}, batch={self.batch}, until={self.until}."
            )


def current_phase(phases: tuple[Phase, ...], progress: float) -> Phase:
    """The phase that a run at ``progress`` is in."""
    return next((p for p in phases if progress < p.until), phases[-1])


class Stopwatch:
    """Seconds of training, those before a resume included."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        now = 0.0 if self._started is None else time.monotonic() - self._started
        return self._before + now

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._before = state["seconds"]
