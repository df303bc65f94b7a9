"""The curve: the same videos each time, the best kept, and nothing lost on the way."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from longlive_recipes.configs.judge import Judged
from longlive_recipes.distillation.curve import MEASURED, JudgeCurve
from longlive_recipes.distillation.picture import draw_curve
from longlive_recipes.moving_shapes.coverage import FREE
from tests.models.tiny_pipeline import tiny_pipeline

JUDGED = Judged(videos=4, seconds=1.0, batch=3, threads=2)


@pytest.fixture
def curve(monkeypatch):
    """A curve of what ``show`` was told to generate: true clips of the prompts, or other ones."""
    from longlive_recipes.distillation import curve as module
    from longlive_recipes.moving_shapes.clips import ClipFormat, draw, single_shot
    from longlive_recipes.moving_shapes.dataset import to_bytes

    state = {"wrong": 0}

    def generate(pipeline, settings, plans, seeds):
        made = []
        for plan, seed in zip(plans, seeds, strict=True):
            look = looks[plan.prompts[0]]
            clip = single_shot(look, seed=seed, clip_format=ClipFormat(), blocks=1)
            made.append(to_bytes(draw([clip]))[0].permute(1, 2, 3, 0).numpy())
        for number in range(state["wrong"]):
            made[number] = np.full_like(made[number], 128)
        return np.stack(made)

    drawn, looks = module.draw_looks, {}

    def remember(rng, split, count):
        found = drawn(rng, split, count)
        looks.update({module.base_caption(look): look for look in found})
        return found

    monkeypatch.setattr(module, "draw_looks", remember)
    monkeypatch.setattr(module, "generate_clips", generate)
    return JudgeCurve(JUDGED), state


def judge(curve, step):
    return curve.judge(tiny_pipeline(), step)


def test_a_student_that_draws_what_is_asked_is_right_and_one_that_loses_it_is_not(curve):
    made, state = curve
    made.judge_teacher(tiny_pipeline())
    assert made.teacher["all_four"] == 1
    first = judge(made, 10)
    assert first["all_four"] == first["seen_all_four"] == first["heldout_all_four"] == 1
    assert {f"distance_{name}" for name in FREE} < first.keys() <= set(MEASURED)
    assert {name for name in MEASURED if not name.startswith("motion_")} <= first.keys()
    state["wrong"] = 1
    second = judge(made, 20)
    assert second["all_four"] < first["all_four"]
    assert second["saturation"] > 0
    assert second["score"] < first["score"]
    assert second["best_step"] == made.best["step"] == 10
    assert [row["step"] for row in made.rows] == [10, 20]


def test_a_curve_goes_on_from_a_file_and_a_step_that_is_judged_again_replaces_its_row(curve):
    made, state = curve
    made.judge_teacher(tiny_pipeline())
    judge(made, 10)
    kept = made.state_dict()
    state["wrong"] = 1
    row = judge(made, 20)
    again = JudgeCurve(JUDGED)
    again.load_state_dict(kept)
    again.judge_teacher(None)  # which is known: nothing is generated
    assert judge(again, 20) == row
    assert again.state_dict() == made.state_dict()
    judge(again, 20)
    assert [one["step"] for one in again.rows] == [10, 20]


def test_the_picture_has_a_line_of_each_kind_and_the_best_step():
    rows = [
        {"step": step, "seen_all_four": 0.5 + step / 1000, "score": 0.4, "saturation": math.nan}
        for step in (100, 200)
    ]
    picture = draw_curve(rows, {"seen_all_four": 0.9}, 200)
    tree = ElementTree.fromstring(picture)
    lines = [one.get("points") for one in tree.iter("{http://www.w3.org/2000/svg}polyline")]
    drawn = [line for line in lines if line]
    assert len(drawn) == 2  # numbers that are none are left out
    assert all(len(line.split()) == 2 for line in drawn)
    titles = [one.text for one in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert set(titles) == {"the best: step 200"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"videos": 1}, "0 or at least 2"),
        ({"seconds": 0.5}, "seconds"),
        ({"threads": 0}, "threads"),
    ],
)
def test_what_cannot_be_judged_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Judged(**wrong)
