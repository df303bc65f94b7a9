"""How long a run lasts: a number of steps, a number of minutes, or whichever ends first."""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The length of a run and the shape of its learning rate.

    ``progress`` (0 at the start, 1 at the end) drives the learning rate and the phases, so a run
    with ``minutes`` set ends its schedule properly on hardware of any speed. Without ``minutes``
    a run is the same on any hardware.
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
        if self.warmup_steps < 0 or not 0 <= self.final_rate <= 1:
            raise ValueError(
                f"a learning rate needs warmup_steps >= 0 and 0 <= final_rate <= 1, got "
                f"warmup_steps={self.warmup_steps} and final_rate={self.final_rate}: the rate "
                f"rises from 0 to its peak and falls to that share of it."
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


def check_phases(phases: tuple[Phase, ...]) -> None:
    """Raise ValueError unless ``phases`` follow each other to the end of a run."""
    ends = [phase.until for phase in phases]
    if not ends or ends[-1] != 1 or any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(
            f"phases must end one after the other, the last at 1, got until={ends}: every moment "
            f"of a run belongs to one phase. Order them, and set the last one's until=1."
        )


def current_phase(phases: tuple[Phase, ...], progress: float) -> Phase:
    """The phase that a run at ``progress`` is in."""
    return next((phase for phase in phases if progress < phase.until), phases[-1])


class Stopwatch:
    """Seconds of training, those before a resume included."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Count from now on."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        now = 0.0 if self._started is None else time.monotonic() - self._started
        return self._before + now

    def state_dict(self) -> dict[str, float]:
        """What ``load_state_dict`` goes on from."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from the seconds of an earlier run."""
        self._before = state["seconds"]
