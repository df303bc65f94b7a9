"""Prompt files and folders: what they ask for, and where they are wrong."""

import json

import pytest

from longlive_models.prompt_files import VideoRequest, read_prompts
from longlive_models.shots import BlockTiming, Shot, Storyboard


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_lines_of_a_text_are_the_shots_of_one_video(tmp_path):
    file = write(tmp_path / "p.txt", "\ufeffa red circle\n\n  a blue square \n")
    assert read_prompts(file) == [
        VideoRequest(storyboard=Storyboard.of(["a red circle", "a blue square"]))
    ]


def test_lines_of_a_text_are_videos_if_asked_for(tmp_path):
    file = write(tmp_path / "p.txt", "a\nb\n")
    assert [r.storyboard for r in read_prompts(file, lines="videos")] == [
        Storyboard.of("a"),
        Storyboard.of("b"),
    ]


def test_lines_of_jsonl_are_videos(tmp_path):
    rows = [{"id": 5, "prompt": "a", "seed": 7, "image": "x/first.png"}, {"prompt": "b"}]
    file = write(tmp_path / "p.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    assert read_prompts(file) == [
        VideoRequest(
            storyboard=Storyboard.of("a"), id="5", seed=7, image=tmp_path / "x" / "first.png"
        ),
        VideoRequest(storyboard=Storyboard.of("b")),
    ]


def test_json_is_a_storyboard(tmp_path):
    value = {"shots": [{"prompt": "a", "seconds": 5}, {"prompt": "b", "seconds": 2.5}]}
    (request,) = read_prompts(str(write(tmp_path / "p.json", value)))
    assert request.storyboard.shots == (
        Shot(prompt="a", seconds=5),
        Shot(prompt="b", seconds=2.5),
    )


@pytest.mark.parametrize("inner", ["", "caption"])
def test_a_folder_holds_samples_of_numbered_shots(tmp_path, inner):
    for name in ("10", "2", "b", "a", "global"):
        write(tmp_path / inner / "second" / f"{name}.json", {"caption": name, "other": 1})
    write(tmp_path / inner / "first" / "1.json", {"caption": "only"})
    first, second = read_prompts(tmp_path)
    assert (first.id, second.id) == ("first", "second")
    assert [shot.prompt for shot in second.storyboard.shots] == ["a", "b", "2", "10"]
    assert second.storyboard.plan(BlockTiming(fps=24), blocks=12).lengths == (3, 3, 3, 3)


def test_durations_are_blocks_and_leave_later_captions_out(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "s" / f"{name}.json", {"caption": name})
    write(tmp_path / "s" / "shot_durations.txt", "2, 6\n")
    (request,) = read_prompts(tmp_path)
    plan = request.storyboard.plan(BlockTiming(fps=24), blocks=12)
    assert (plan.prompts, plan.lengths) == (("a", "b"), (2, 10))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", " \n", "p.txt: .*at least one line, got none"),
        ("p.jsonl", "", "p.jsonl: .*at least one line, got none"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ', "p.jsonl, line 2 is not JSON"),
        ("p.jsonl", '"a"', "line 1: a line is an object"),
        ("p.jsonl", '{"id": "x"}', r"line 1: .*needs the key 'prompt', got \['id'\]"),
        ("p.jsonl", '{"prompt": ""}', "line 1: .*at least one word, got ''"),
        ("p.jsonl", '{"prompt": 3}', "line 1: .*a text, got 3"),
        ("p.jsonl", '{"promt": "a"}', "no key 'promt'; did you mean 'prompt'"),
        ("p.jsonl", '{"prompt": "a", "seed": -1}', "from 0 up, got -1"),
        ("p.jsonl", '{"prompt": "a", "seed": true}', "from 0 up, got True"),
        ("p.jsonl", '{"prompt": "a", "image": 3}', "path of a file, got 3"),
        ("p.json", "[", "p.json is not JSON"),
        ("p.json", '{"shots": [{"prompt": "a", "second": 3}]}', "p.json: .*did you mean 'seconds'"),
        ("p.json", '{"shots": [{"prompt": "a", "seconds": 0}]}', "p.json: .*above 0, got 0"),
        ("p.csv", "a", r"ends in .txt, .jsonl, .json, got 'p.csv'.*Rename"),
        ("s/1.json", '{"text": "a"}', "s: 1.json: .*with the key 'caption'"),
        ("s/1.json", '{"caption": " "}', "s: .*at least one word"),
        ("s/global.json", '{"caption": "a"}', "s: a storyboard needs at least one shot"),
        ("other/1.md", "a", "holds caption/<sample>/<number>.json"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, name, content, message):
    file = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path if "/" in name else file)


@pytest.mark.parametrize("durations", ["", "2, x", "0", "1.5"])
def test_durations_that_are_no_blocks_are_refused(tmp_path, durations):
    write(tmp_path / "s" / "1.json", {"caption": "a"})
    write(tmp_path / "s" / "shot_durations.txt", durations)
    with pytest.raises(ValueError, match="shot_durations.txt: .*whole numbers of blocks above 0"):
        read_prompts(tmp_path)


def test_a_missing_file_and_another_encoding_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no prompt file .*Check the path"):
        read_prompts(tmp_path / "absent.txt")
    file = tmp_path / "p.txt"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="UTF-8 text, got the byte 0xe9 at 3"):
        read_prompts(file)
