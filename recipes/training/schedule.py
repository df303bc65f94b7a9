"""How long a run is, in steps or minutes, its phases, and its learning rates over that time."""

import math
import time
from dataclasses import dataclass
from typing import TypeVar

from longlive_recipes.configs.checked import YEAR, real_field, whole_field

MOST_STEPS = 1 << 24
"""Up to which a float32 counts one by one: AdamW's own counter is one."""


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """How long a run is, and the curve of its learning rate.

    ``progress`` (0 at the start, 1 at the end) drives the learning rate and the phases, so a run
    with ``minutes`` set ends its schedule properly on hardware of any speed. Without ``minutes``
    a run is the same on any hardware.

    Attributes:
        steps: the run ends after so many.
        minutes: and after so many minutes, if that is sooner; None sets no time.
        warmup_steps: steps over which the learning rate rises to its peak.
        final_rate: the learning rate at the end, as a share of the peak.
    """

    steps: int = 1000
    minutes: float | None = None
    warmup_steps: int = 100
    final_rate: float = 0.02

    def __post_init__(self) -> None:
        whole_field(
            self,
            "steps",
            at_least=1,
            at_most=MOST_STEPS,
            why=f"a run takes a step at least, and AdamW counts them in float32, which is exact up "
            f"to {MOST_STEPS}. Give a number in between.",
        )
        if self.minutes is not None:
            real_field(
                self,
                "minutes",
                above=0,
                at_most=YEAR,
                why=f"it is the time there is to train, a year at most. Leave it out to run all "
                f"{self.steps} steps.",
            )
        whole_field(
            self,
            "warmup_steps",
            at_least=0,
            at_most=self.steps,
            why=f"over so many of the run's {self.steps} steps the learning rate rises to its "
            f"peak. Set warmup_steps to a tenth of steps, say, or to 0.",
        )
        _check_final_rate(self)

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that is over after ``step`` steps and ``seconds`` seconds."""
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return min(1.0, max(step / self.steps, by_time))

    def rate(self, step: int, progress: float) -> float:
        """The learning rate as a share of its peak, as ``LearningRateCurve.rate`` has it."""
        return self.curve.rate(step, progress)

    @property
    def curve(self) -> "LearningRateCurve":
        """The learning rate's curve, by itself."""
        return LearningRateCurve(warmup_updates=self.warmup_steps, final_rate=self.final_rate)


@dataclass(frozen=True, kw_only=True)
class LearningRateCurve:
    """A linear warm-up, then half a cosine over the run.

    Attributes:
        warmup_updates: updates of the optimizer over which its learning rate rises to the peak.
        final_rate: the learning rate at the end of the run, as a share of the peak.
    """

    warmup_updates: int = 100
    final_rate: float = 0.02

    def __post_init__(self) -> None:
        whole_field(
            self,
            "warmup_updates",
            at_least=0,
            at_most=MOST_STEPS,
            why="over so many updates the learning rate rises to its peak. Use 0 for none.",
        )
        _check_final_rate(self)

    def rate(self, updates: int, progress: float) -> float:
        """The learning rate of the next update, as a share of its peak.

        Args:
            updates: how many the optimizer has made.
            progress: the share of the run that is over.
        """
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        warm = min(1.0, (updates + 1) / max(1, self.warmup_updates))
        return warm * (self.final_rate + (1 - self.final_rate) * cosine)


def _check_final_rate(config: TrainingSchedule | LearningRateCurve) -> None:
    real_field(
        config,
        "final_rate",
        at_least=0,
        at_most=1,
        why="it is the learning rate at the end, as a share of the peak. Use 0.02, say.",
    )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run: clips of ``length`` (the recipe says in which unit), ``batch`` at a time."""

    length: int
    batch: int
    until: float  # the progress at which the next phase begins

    def __post_init__(self) -> None:
        for name in ("length", "batch"):
            whole_field(
                self,
                name,
                at_least=1,
                at_most=MOST_STEPS,
                why="a phase has steps of so many clips of such a length. Use 1 or more.",
            )
        real_field(
            self,
            "until",
            above=0,
            at_most=1,
            why="it is the share of the run after which the next phase begins. The last phase has "
            "1.",
        )


AnyPhase = TypeVar("AnyPhase", bound=Phase)


def check_phases(phases: tuple[AnyPhase, ...]) -> None:
    """Raise ValueError unless ``phases`` follow each other to the end of a run."""
    ends = [phase.until for phase in phases]
    if not ends or ends[-1] != 1 or any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(
            f"phases must end one after the other, the last at 1, got until={ends}: every moment "
            f"of a run belongs to one phase. Order them, and set the last one's until=1."
        )


def current_phase(phases: tuple[AnyPhase, ...], progress: float) -> AnyPhase:
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
