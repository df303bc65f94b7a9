"""Prompt files and folders: what they ask for, and where they are wrong."""

import json

import pytest

from longlive_models.prompts.files import VideoRequest, read_prompts
from longlive_models.prompts.storyboard import BlockTiming, Shot, Storyboard


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
    rows = [{"id": "5", "prompt": "a", "seed": 7, "image": "x/first.png"}, {"prompt": "b"}]
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
    assert (plan.prompts, plan.lengths, plan.left_out) == (("a", "b"), (2, 10), ("c",))


def test_a_duration_without_a_caption_is_refused(tmp_path):
    write(tmp_path / "s" / "a.json", {"caption": "a"})
    write(tmp_path / "s" / "shot_durations.txt", "2, 6")
    with pytest.raises(ValueError, match="s: shot_durations.txt has 2 durations for 1 captions"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_lines_end_at_line_ends_alone(tmp_path, end, inside):
    prompts = [f"a red{inside}circle", "a blue square"]
    text, rows = tmp_path / "p.txt", tmp_path / "p.jsonl"
    text.write_bytes(end.join(prompts).encode())
    assert [shot.prompt for shot in read_prompts(text)[0].storyboard.shots] == prompts
    if inside in "\u2028\u2029\x85":  # the others are not allowed in a text of JSON
        values = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts]
        rows.write_bytes(end.join(values).encode())
        assert [r.storyboard for r in read_prompts(rows)] == [Storyboard.of(p) for p in prompts]


def test_files_that_were_joined_keep_no_marks(tmp_path):
    text, rows = tmp_path / "p.txt", tmp_path / "p.jsonl"
    text.write_bytes(b"\xef\xbb\xbfa\r\n\xef\xbb\xbf\r\n\xef\xbb\xbfb\r\n")
    assert [shot.prompt for shot in read_prompts(text)[0].storyboard.shots] == ["a", "b"]
    rows.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n\xef\xbb\xbf{"prompt": "b"}\n')
    assert len(read_prompts(rows)) == 2


def test_samples_and_shots_are_counted_as_people_count(tmp_path):
    for sample in ("clip_10", "clip_9", "clip_1"):
        for shot in ("shot_10", "shot_2", "shot_1", "12", "3"):
            write(tmp_path / sample / f"{shot}.json", {"caption": shot})
    requests = read_prompts(tmp_path)
    assert [request.id for request in requests] == ["clip_1", "clip_9", "clip_10"]
    shots = [shot.prompt for shot in requests[0].storyboard.shots]
    assert shots == ["shot_1", "shot_2", "shot_10", "3", "12"]


def test_what_editors_and_systems_keep_is_not_read(tmp_path):
    write(tmp_path / "s" / "1.json", {"caption": "a"})
    write(tmp_path / "s" / "._1.json", "\x00\x05\x16")
    write(tmp_path / "s" / ".ipynb_checkpoints" / "1-checkpoint.json", {"caption": "old"})
    write(tmp_path / ".ipynb_checkpoints" / "1.json", {"caption": "old"})
    write(tmp_path / "__MACOSX" / "._s.json", "\x00\x05\x16")
    (request,) = read_prompts(tmp_path)
    assert request == VideoRequest(storyboard=Storyboard.of(["a"]), id="s")


@pytest.mark.parametrize("name", ["p.json", "folder"])
def test_only_files_of_lines_have_a_video_a_line(tmp_path, name):
    write(tmp_path / "p.json", {"shots": ["a"]})
    write(tmp_path / "folder" / "s" / "1.json", {"caption": "a"})
    with pytest.raises(ValueError, match="no lines that could be a video each.*one-video-a-line"):
        read_prompts(tmp_path / name, lines="videos")


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
        ("p.jsonl", '{"prompt": "a", "seed": -1}', "line 1: a seed is at least 0, got -1"),
        ("p.jsonl", '{"prompt": "a", "seed": true}', "a seed is a whole number, got True"),
        ("p.jsonl", '{"prompt": "a", "seed": 7.0}', "a seed is a whole number, got 7.0"),
        ("p.jsonl", f'{{"prompt": "a", "seed": {2**64}}}', "a seed is at most"),
        ("p.jsonl", '{"prompt": "a", "image": " "}', "path of a file, got ' '"),
        ("p.jsonl", '{"prompt": "a", "id": 5}', "an id is a text, got 5.*quotes"),
        ("p.jsonl", '{"prompt": "a", "id": ""}', "an id '' cannot name a file: it is empty"),
        ("p.jsonl", '{"prompt": "a", "id": "a/b"}', "leave out slashes"),
        ("p.jsonl", '{"prompt": "a", "id": ".."}', "it names a folder"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}', "line 1: the key 'prompt' stands twice"),
        ("p.jsonl", '{"prompt": NaN}', "line 1: NaN is no number"),
        ("p.txt", "a\n\u200b\nb", "p.txt, line 2: .*at least one word"),
        ("p.txt", "a\nb\x1b[2J", "line 2: .*control character U[+]001B"),
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


@pytest.mark.parametrize("durations", ["", "2, x", "0", "1.5", "9" * 5000])
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


def test_durations_that_are_a_folder_are_not_passed_over(tmp_path):
    write(tmp_path / "s" / "1.json", '{"caption": "a"}')
    (tmp_path / "s" / "shot_durations.txt").mkdir()
    with pytest.raises(ValueError, match="shot_durations.txt cannot be read .Is a directory"):
        read_prompts(tmp_path)
