"""Two evaluations are compared video by video, and only if they are of the same videos."""

import json

import pytest

from benchmarks.pairs import compare, main


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
    ],
)
def test_other_videos_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        compare(ONE, other)


def test_the_command_prints_a_table_and_stores_how_it_was_made(tmp_path, capsys):
    names = []
    for number, each in enumerate((*ONE, *OTHER)):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(each))
        names.append(str(path))
    out = tmp_path / "pairs.json"
    main(["--one", *names[:2], "--other", *names[2:], "-o", str(out)])
    assert "| seen | 4 | shape | 75.0% | 50.0% | 2 | 1 | -25.0 ± 43.3 |" in capsys.readouterr().out
    stored = json.loads(out.read_text())
    assert stored["seeds"] == [0, 9]
    assert stored["other"]["config"] == {"weights": "nvfp4", "kv_cache": "bf16", "seed": 0}
    with pytest.raises(SystemExit):
        main(["--one", names[0], "--other", names[3]])
    assert "not of the same videos" in capsys.readouterr().err
