"""Two evaluations are compared video by video, and only if they are of the same videos."""

import json
from pathlib import Path

import pytest

from longlive_recipes.bench.options import PairsOptions
from longlive_recipes.bench.pairs import compare, sides
from longlive_recipes.bench.run import prepare


def record(right: list[str], seed: int = 0, **changes) -> dict:
    config = {"seed": seed, "weights": "bf16", "kv_cache": "bf16", "seconds": 4.0} | changes
    return {
        "config": config,
        "suites": {"seen": {"videos": len(right), "right": right}},
        "steps": 8,
        "guidance": 2.0,
        "model_sha256": "0",
        "backends": [],
        "hardware": {"device": "cpu"},
        "torch": "2",
        "code": {"commit": "1"},
    }


ONE = [record(["1111", "1101"]), record(["0111", "1110"], seed=9)]
OTHER = [record(["1111", "0111"], weights="nvfp4"), record(["1111", "0110"], 9, weights="nvfp4")]


def test_what_only_one_side_gets_right_is_counted():
    rows = compare(ONE, OTHER)["seen"]
    assert rows["videos"] == 4
    assert rows["shape"] == {
        "one": 0.75,
        "other": 0.5,
        "only_one": 2,
        "only_other": 1,
        "difference": -25.0,
        "standard_error": 43.3,
    }
    assert (rows["background"]["one"], rows["background"]["other"]) == (0.75, 1.0)
    assert rows["motion"]["difference"] == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (OTHER[:1], "2 records of the one and 1 of the other"),
        (OTHER[::-1], r"not of the same videos: config.seed: 0 -> 9"),
        ([OTHER[0], OTHER[1] | {"steps": 4}], "steps: 8 -> 4"),
        ([OTHER[0], record(["1111"] * 2, 9, seconds=5.0)], "config.seconds: 4.0 -> 5.0"),
        ([OTHER[0], record(["1111"], 9)], r"suites have {'seen': 2} of them on the one side and"),
    ],
)
def test_other_videos_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        compare(ONE, other)


def stored(folder: Path, records: list[dict]) -> tuple[Path, ...]:
    paths = tuple(folder / f"{number}.json" for number in range(len(records)))
    for path, each in zip(paths, records, strict=True):
        path.write_text(json.dumps(each))
    return paths


def test_a_record_says_how_both_sides_were_made(tmp_path):
    paths = stored(tmp_path, [*ONE, *OTHER])
    prepared = prepare("pairs", PairsOptions(one=paths[:2], other=paths[2:]))
    found = prepared.measure()
    assert prepared.stem == "pairs"
    line = "| seen | 4 | shape | 75.0% | 50.0% | 2 | 1 | -25.0 ± 43.3 |"
    assert line in prepared.table(found).splitlines()
    assert found["seeds"] == [0, 9]
    assert found["other"]["config"] == {"weights": "nvfp4", "kv_cache": "bf16", "seed": 0}
    one, other = (",".join(map(str, some)) for some in (paths[:2], paths[2:]))
    assert found["command"] == f"longlive bench pairs --set one={one} --set other={other}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suites": []}, r"lacks suites.NAME.right. `longlive evaluate -o FILE` writes one"),
        ({"suites": {"seen": {"right": 3}}}, r"lacks suites.seen.right"),
        ({"suites": {"seen": {"right": ["111"]}}}, r"lacks suites.seen.right"),
        ({"suites": {"seen": {"right": []}}}, r"lacks suites.seen.right"),
        ({"config": {"seed": 0}}, r"lacks config.weights, config.kv_cache"),
    ],
)
def test_what_is_no_evaluation_is_refused(changes, message, tmp_path):
    one, other = stored(tmp_path, [ONE[0], OTHER[0] | changes])
    with pytest.raises(ValueError, match=message):
        prepare("pairs", PairsOptions(one=(one,), other=(other,)))
    other.write_text("[]")
    with pytest.raises(ValueError, match="1.json"):
        prepare("pairs", PairsOptions(one=(one,), other=(other,)))


def test_two_ways_to_run_one_model_are_compared_and_told():
    """Any way in which a model runs may differ, and is then said of each side."""
    one, other = record(["1111"], quality="lossless", lora=[]), record(["1011"], quality="high")
    assert compare([one], [other])["seen"]["colour"]["only_one"] == 1
    told = sides([one], [other])
    assert told["one"]["config"]["quality"] == "lossless"
    assert told["other"]["config"]["quality"] == "high"
    assert told["config"] == {"seconds": 4.0}
