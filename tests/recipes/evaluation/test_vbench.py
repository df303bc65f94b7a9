"""VBench's folder: names that it looks for, prompts that `longlive generate` reads, and weights."""

import json

import pytest

from longlive_models.prompts.files import read_prompts as read_our_prompts
from longlive_recipes.evaluation.vbench import (
    WEIGHTS,
    missing_weights,
    prepare,
    read_prompts,
)

INFO = [
    {"prompt_en": "a circle", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a square, in snow", "dimension": ["subject_consistency", "color"]},
    {"prompt_en": "a circle", "dimension": ["imaging_quality"]},
]


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "VBench_full_info.json"
    path.write_text(json.dumps(INFO))
    return path


def test_the_folder_holds_what_is_needed_to_make_the_videos(info, tmp_path):
    made = prepare(info, tmp_path / "bench", samples=2, seed=5, cache=tmp_path)
    assert made.count == 4 and list(made.videos.iterdir()) == []
    requests = read_our_prompts(made.prompts)
    assert [(one.id, one.seed) for one in requests] == [
        ("a circle-0", 5),
        ("a circle-1", 6),
        ("a square, in snow-0", 5),
        ("a square, in snow-1", 6),
    ]
    assert requests[2].storyboard.shots[0].prompt == "a square, in snow"
    copied = json.loads((tmp_path / "bench" / "VBench_full_info.json").read_text())
    assert copied == INFO


def test_weights_that_are_missing_are_named_with_their_dimensions(info, tmp_path):
    made = prepare(info, tmp_path / "bench", cache=tmp_path)
    assert made.missing == {
        "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth": ("imaging_quality",),
        "dino_model/dino_vitbase16_pretrain.pth": ("subject_consistency",),
        "grit_model/grit_b_densecap_objectdet.pth": ("color",),
    }
    for file in made.missing:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert missing_weights(("imaging_quality", "subject_consistency", "color"), tmp_path) == {}


def test_every_dimension_is_known():
    assert len(WEIGHTS) == 16


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "is a list of objects"),
        ([], "holds no prompts"),
        (["a"], "entry 0: VBench's list has objects"),
        ([{"prompt_en": " ", "dimension": []}], "entry 0"),
        ([{"prompt_en": "a", "dimension": ["taste"]}], "'taste' is no dimension of VBench"),
    ],
)
def test_another_list_is_refused(value, message, tmp_path):
    path = tmp_path / "info.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        read_prompts(path)


def test_a_folder_that_exists_stays_and_nothing_is_left(info, tmp_path):
    (tmp_path / "bench").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="bench exists"):
        prepare(info, tmp_path / "bench")
    assert sorted(tmp_path.iterdir()) == before
