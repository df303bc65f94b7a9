"""Records of videos that are damaged are refused by the field, before anything is planned."""

import json
from typing import Any

import pytest

from longlive_recipes.configs.generate import Generate
from longlive_recipes.generation.jobs import replay
from longlive_recipes.run_record import as_plain, read_run_record

SETTINGS = {"height": 32, "width": 48, "fps": 8.0, "steps": 2}
RECORD: dict[str, Any] = {
    "replay": {
        "config": as_plain(Generate()),
        "seed": 4,
        "image": None,
        "shots": [{"prompt": "a red circle", "blocks": 2}],
        "events": [{"block": 1, "text": "a star", "memory": "keep", "forget": False}],
    },
    "model_sha256": "0" * 64,
    "settings": SETTINGS,
}


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    if isinstance(value, list):
        return [
            changed(old, place[1:], new) if i == place[0] else old for i, old in enumerate(value)
        ]
    return {**value, place[0]: changed(value.get(place[0]), place[1:], new)}


@pytest.fixture
def write(tmp_path):
    def to_file(value: Any, name: str = "v.json"):
        (tmp_path / name).write_text(json.dumps(value))
        return tmp_path / name

    return to_file


def test_a_record_is_a_job_with_or_without_the_hash_of_a_picture(write):
    config, job = replay(write(RECORD))
    assert (config, job.seed, job.image_sha256, len(job.events)) == (Generate(), 4, None, 1)
    known = changed(RECORD, ("replay", "image_sha256"), "ab")
    assert replay(write(known))[1].image_sha256 == "ab"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((), [1], "object"),
        (("replay",), [], "replay"),
        (("replay", "seed"), "4", "seed is a whole number, got '4'"),
        (("replay", "seed"), -1, "a seed of noise is at least 0, got -1"),
        (("replay", "image"), 3, "image"),
        (("replay", "image_sha256"), 3, "image_sha256"),
        (("replay", "shots"), "a red circle", "shots"),
        (("replay", "shots", 0, "prompt"), None, "prompt"),
        (("replay", "shots", 0, "blocks"), 1.5, "blocks"),
        (("replay", "events", 0, "block"), "1", "block"),
        (("replay", "events", 0, "memory"), "lost", "memory"),
        (("replay", "config", "steps"), [None], "steps"),
        (("replay", "config", "guidance"), 1001, "guidance is at most 1000"),
        (("replay", "config", "weights"), "fp7", "weights='fp7' is no precision"),
        (("model_sha256",), None, "model_sha256"),
        (("settings",), [], "settings"),
        (("settings", "height"), "32", "height is a whole number, got '32'"),
        (("settings", "sink"), None, "sink is a whole number, got None"),
        (("settings", "t_scale"), 1e300, "t_scale is at most 16777216"),
    ],
)
def test_a_damaged_record_is_refused_by_its_field(place, value, message, write):
    path = write(changed(RECORD, place, value))
    with pytest.raises(ValueError, match=message) as refusal:
        replay(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "value", [[], [{"recipe": "TrainAR"}], "a text", 3, None, {"recipe": 3}, {"config": {}}]
)
def test_the_record_of_a_run_that_is_none_is_refused(value, write, tmp_path):
    write(value, "run.json")
    with pytest.raises(ValueError, match=r"run\.json") as refusal:
        read_run_record(tmp_path)
    assert str(refusal.value).endswith(".")
