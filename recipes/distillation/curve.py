"""The curve of a distillation: what the judge sees of a student as it learns, and the best so far.

A loss does not say when to stop: motion fades and pictures grow more saturated while it falls. So
videos are generated at every validation, the same prompts and seeds each time, and judged by their
pixels. ``score`` is the share of videos with all four attributes right, less the mean distance
of what prompts leave free to the teacher's (``coverage``). The student with the largest is kept.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from longlive_models.pipeline import LongLivePipeline
from longlive_models.settings import GenerationSettings
from longlive_recipes.configs.judge import Judged
from longlive_recipes.evaluate import ATTRIBUTES, draw_looks, generate_clips
from longlive_recipes.moving_shapes.attributes import MOTIONS, ShapeAttributes
from longlive_recipes.moving_shapes.captions import base_caption
from longlive_recipes.moving_shapes.coverage import (
    FREE,
    FreeTraits,
    as_values,
    coverage,
    from_values,
    traits_of,
)
from longlive_recipes.moving_shapes.judge import ShotVerdict, judge_measured, score
from longlive_recipes.moving_shapes.judge_measure import measure

SCORE = "score"
BEST = "best_step"
OTHER_SEEDS = 1_000_000
"""How far the seeds of a teacher's videos are from those of the student's."""

WITH_ALL = (*ATTRIBUTES, "all_four")
MEASURED = (
    *WITH_ALL,
    *(f"{suite}_{name}" for suite in ("seen", "heldout") for name in WITH_ALL),
    *(f"motion_{motion.replace(' ', '_')}" for motion in MOTIONS),
    *(f"distance_{name}" for name in FREE),
    "saturation",
    SCORE,
    BEST,
)
"""The names of what a validation measures; a motion that no prompt asked for has no number."""

Row = dict[str, float]


@dataclass
class JudgeCurve:
    """Judges a student again and again, and remembers what it saw.

    Attributes:
        judged: what it looks at.
        rows: of each validation, its numbers by name; ``step`` among them.
        teacher: the teacher's numbers; empty until it has been judged.
    """

    judged: Judged
    rows: list[Row] = field(default_factory=list)
    teacher: Row = field(default_factory=dict)
    _free: list[FreeTraits | None] = field(default_factory=list)

    def judge_teacher(self, pipeline: LongLivePipeline) -> None:
        """Judge the teacher, as its own settings run it, once: later calls do nothing."""
        if not self.teacher:
            self.teacher, self._free = self._look(pipeline, pipeline.settings, OTHER_SEEDS)

    def judge(self, pipeline: LongLivePipeline, step: int) -> Row:
        """Judge the student after ``step`` steps, add a row, and return it."""
        assert self.teacher, "the teacher is judged first"
        row, free = self._look(pipeline, pipeline.settings, 0)
        distances = coverage(free, self._free)
        row |= {f"distance_{name}": value for name, value in distances.items()}
        far = [1.0 if math.isnan(value) else value for value in distances.values()]
        row[SCORE] = row["all_four"] - float(np.mean(far))
        self.rows = [*(one for one in self.rows if one["step"] < step), {"step": step, **row}]
        row[BEST] = self.best["step"]
        return row

    @property
    def best(self) -> Row:
        """The row with the largest score; of several, the first."""
        return max(self.rows, key=lambda row: row[SCORE])

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, as plain values."""
        return {
            "rows": [dict(row) for row in self.rows],
            "teacher": dict(self.teacher),
            "free": as_values(self._free),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.rows = [dict(row) for row in state["rows"]]
        self.teacher = dict(state["teacher"])
        self._free = from_values(state["free"])

    def _look(
        self, pipeline: LongLivePipeline, settings: GenerationSettings, seed: int
    ) -> tuple[Row, list[FreeTraits | None]]:
        """Generate and judge: numbers by name, and what the prompts left free."""
        judged, fps = self.judged, pipeline.settings.fps
        rng = np.random.default_rng(judged.seed)
        half = judged.videos // 2
        looks = draw_looks(rng, "train", judged.videos - half) + draw_looks(rng, "heldout", half)
        clips: list[np.ndarray] = []
        for first in range(0, len(looks), judged.batch):
            some = range(first, min(first + judged.batch, len(looks)))
            plans = [pipeline.plan(base_caption(looks[n]), seconds=judged.seconds) for n in some]
            seeds = [judged.seed + seed + n for n in some]
            clips.extend(generate_clips(pipeline, settings, plans, seeds))
        judgements = _judge_all(clips, fps, judged.threads)
        verdicts, free = [one[0] for one in judgements], [one[1] for one in judgements]
        right = np.array(
            [score(verdict, look) for verdict, look in zip(verdicts, looks, strict=True)], float
        )
        seen = len(looks) - half
        row = _rates(right, looks)
        row |= {f"seen_{name}": value for name, value in _attributes(right[:seen]).items()}
        row |= {f"heldout_{name}": value for name, value in _attributes(right[seen:]).items()}
        shown = [one.saturation for one in free if one is not None]
        row["saturation"] = float(np.mean(shown)) if shown else 0.0
        return row, free


def _judge_all(
    clips: Sequence[np.ndarray], fps: float, threads: int
) -> list[tuple[ShotVerdict, FreeTraits | None]]:
    """Judge clips side by side; each on one thread, for torch's would be in the way."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(lambda clip: _judge(clip, fps), clips))
    finally:
        torch.set_num_threads(before)


def _judge(clip: np.ndarray, fps: float) -> tuple[ShotVerdict, FreeTraits | None]:
    measured = measure(clip)
    return judge_measured(measured, fps), traits_of(measured, clip, fps)


def _attributes(right: np.ndarray) -> Row:
    rates = dict(zip(ATTRIBUTES, right.mean(0).tolist(), strict=True))
    return {**rates, "all_four": float(right.all(1).mean())}


def _rates(right: np.ndarray, looks: Sequence[ShapeAttributes]) -> Row:
    """Shares of videos that are right, in all and by kind of motion."""
    by_motion = {
        f"motion_{motion.replace(' ', '_')}": float(right[rows, 3].mean())
        for motion in MOTIONS
        if (rows := np.array([look.motion == motion for look in looks])).any()
    }
    return {**_attributes(right), **by_motion}
