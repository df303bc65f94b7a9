"""How a model is run: to a file and back, and what a file may not say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.checkpoints.hub import INDEX
from longlive_models.choices import SAMPLERS
from longlive_models.settings import GenerationSettings, completed, read_settings, write_index

PLAIN = GenerationSettings(height=128, width=64, fps=12.0, steps=8)


FIELDS = {
    "height": st.integers(1, 4096),
    "width": st.integers(1, 4096),
    "fps": st.floats(0.1, 120),
    "steps": st.integers(1, 100) | st.lists(st.integers(1, 100), min_size=2, max_size=4),
    "sampler": st.sampled_from(SAMPLERS),
    "guidance": st.floats(0, 20),
    "negative_prompt": st.text(),
    "shift": st.floats(0.1, 20),
    "window": st.integers(4, 20),
    "sink": st.integers(0, 2),
    "shot_sink": st.integers(0, 1),
    "shot_offset": st.floats(-100, 100),
    "t_scale": st.floats(0.1, 10),
}


@given(st.fixed_dictionaries(FIELDS))
def test_settings_survive_json(values):
    settings = GenerationSettings.from_dict(values)
    assert settings.to_dict() == values
    assert GenerationSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_model_that_names_no_sampler_has_the_one_of_all_earlier_models():
    values = {key: value for key, value in PLAIN.to_dict().items() if key != "sampler"}
    assert GenerationSettings.from_dict(values) == replace(PLAIN, sampler="unipc")
    assert completed(values) == PLAIN.to_dict()
    assert completed({"sampler": "euler"}) == {"sampler": "euler"}


def test_an_unknown_sampler_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="sampler='ddim' is no sampler .* unipc, euler, few_step"):
        replace(PLAIN, sampler="ddim")


def test_an_index_holds_settings_and_notes(tmp_path):
    write_index(tmp_path, PLAIN, trained_with="ar_pocket")
    assert read_settings(tmp_path) == PLAIN
    assert json.loads((tmp_path / INDEX).read_text())["trained_with"] == "ar_pocket"


def test_what_is_not_given_is_not_changed():
    assert PLAIN.override() == PLAIN
    assert PLAIN.override(steps=4, guidance=3.0) == replace(PLAIN, steps=4, guidance=3.0)


@pytest.mark.parametrize("steps", [np.int32(4), np.int64(4), torch.tensor(4)])
def test_numbers_of_numpy_and_torch_are_plain_in_records(steps):
    settings = PLAIN.override.__wrapped__(PLAIN, steps=steps, guidance=np.float32(3))
    assert settings == replace(PLAIN, steps=4, guidance=3.0)
    assert json.loads(json.dumps(settings.to_dict())) == settings.to_dict()


def test_only_guidance_of_one_needs_one_branch():
    assert [replace(PLAIN, guidance=g).branches for g in (0.0, 1.0, 1.5)] == [2, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height is above 0, got 0"),
        ({"fps": float("inf")}, "fps is a finite number, got inf"),
        ({"shift": -1.0}, "shift is above 0, got -1.0"),
        ({"t_scale": float("nan")}, "t_scale is a finite number, got nan"),
        ({"guidance": float("inf")}, "guidance is a finite number, got inf"),
        ({"steps": 10**9}, "steps is at most 1000, got 1000000000: .*noise level of its own"),
        ({"steps": 10**5000}, "steps is at most 1000, got a whole number of 16610 bits"),
        ({"sink": -1}, "sink is at least 0, got -1"),
        ({"t_scale": 1e300}, "t_scale is at most 16777216, got 1e.300: .*whole up to 2"),
        ({"shot_offset": 1e300}, "shot_offset is at most 16777216"),
        ({"shot_offset": float("nan")}, "shot_offset is a finite number, got nan"),
        ({"shift": 1e300}, "shift is at most 1000000"),
        ({"window": 2}, "leaves no page for the block itself"),
    ],
)
def test_settings_that_make_no_video_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fsp": 12}, "no key 'fsp'; did you mean 'fps'"),
        ({"steps": "4"}, r"steps is a whole number or a list \[...\], got '4'"),
        ({"steps": 2.5}, r"steps is a whole number or a list \[...\], got 2.5"),
        ({"steps": True}, r"steps is a whole number or a list \[...\], got True"),
        ({"fps": None}, "fps is a finite number, got None"),
        ({"negative_prompt": 3}, "negative_prompt is text, got 3"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GenerationSettings.from_dict({**PLAIN.to_dict(), **change})


@pytest.mark.parametrize("name", ["height", "width", "fps", "steps"])
def test_what_nothing_implies_must_be_there(name):
    values = {key: value for key, value in PLAIN.to_dict().items() if key != name}
    with pytest.raises(ValueError, match=f"lacks {name}: nothing implies it"):
        GenerationSettings.from_dict(values)


@pytest.mark.parametrize("content", ["{}", '{"generation": 3}'])
def test_an_index_of_something_else_is_refused(content, tmp_path):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ValueError, match="holds no 'generation' settings"):
        read_settings(tmp_path)
