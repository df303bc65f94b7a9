"""Sampling that a model was not trained for is said by everything that samples, in one wording."""

import warnings

import pytest

from longlive_models.sampling_notes import SamplingWarning, sampling_notes
from tests.models.tiny_pipeline import tiny_pipeline

STUDENT = {"sampler": "few_step", "steps": 2, "guidance": 1.0}
PROMPT = "a red circle"


def notes(own, chosen, *, adapted=False):
    settings = tiny_pipeline(**own).settings
    return sampling_notes(settings, settings.override(**chosen), adapted=adapted)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"sampler": "euler"}, "the sampler euler goes from step to step in another way"),
        ({"steps": 1}, "fewer steps make coarser shapes"),
        ({"steps": (4, 1)}, "fewer steps make coarser shapes, more steps take longer"),
        ({"guidance": 3.0}, "guidance 3 runs the model 2 times a step in place of 1"),
    ],
)
def test_a_student_has_one_note_of_all_that_is_not_its_own(chosen, said):
    [note] = notes(STUDENT, chosen)
    assert said in note and "trained for sampler few_step, steps 2 and guidance 1" in note
    assert note.endswith("out for the video that it was trained to make.")
    assert notes(STUDENT, chosen, adapted=True) == ()  # with adapters it is another model
    assert notes(STUDENT, {}) == notes(STUDENT, {"steps": 2}) == ()


def test_a_teacher_has_a_note_of_the_students_sampler_alone():
    teacher = {"sampler": "unipc", "steps": 2, "guidance": 3.0}
    assert notes(teacher, {"steps": 9, "guidance": 1.0, "sampler": "euler"}) == ()
    [note] = notes(teacher, {"sampler": "few_step"})
    assert "few_step is for students of distillation, and this model is none" in note
    assert "its own sampler is unipc" in note
    assert notes(teacher, {"sampler": "few_step"}, adapted=True) == (note,)


def test_the_pipeline_says_it_once_and_makes_the_video():
    pipe = tiny_pipeline(**STUDENT)
    with pytest.warns(SamplingWarning, match="fewer steps make coarser shapes") as heard:
        video = pipe(PROMPT, seconds=1, steps=1)
    assert len([one for one in heard if one.category is SamplingWarning]) == 1
    assert len(video.frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplingWarning)
        pipe(PROMPT, seconds=1, steps=2)
        with pytest.raises(SamplingWarning):
            pipe(PROMPT, seconds=1, guidance=2.0)
