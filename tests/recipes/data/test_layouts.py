"""Clips are found in each layout, and what is no clip is listed with the reason."""

import json

import pytest

from longlive_recipes.data.layouts import find_sources
from tests.recipes.data.made_clips import caption, stories


def put(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_of_videos_with_captions_beside_them(tmp_path):
    caption(put(tmp_path / "b.mp4"), " a  red\ncircle \n")
    caption(put(tmp_path / "deep" / "a.MOV"), "a star")
    put(tmp_path / "notes.txt")
    put(tmp_path / ".hidden" / "c.mp4")
    found = find_sources(tmp_path)
    assert found.layout == "folder"
    assert [source.name for source in found.sources] == ["b.mp4", "deep/a.MOV"]
    [shot] = found.sources[0].shots
    assert (shot.path, shot.caption, shot.start, shot.end) == (
        tmp_path / "b.mp4",
        "a red circle",
        0.0,
        None,
    )
    assert found.skipped == ()


def test_what_a_folder_has_that_is_no_clip_is_listed(tmp_path):
    put(tmp_path / "alone.mp4")
    caption(put(tmp_path / "mute.mp4"), " \n")
    caption(put(tmp_path / "twice.mp4"), "a star")
    put(tmp_path / "twice.avi")
    caption(put(tmp_path / "wide.mp4"), "")
    (tmp_path / "wide.txt").write_bytes("a star".encode("utf-16"))
    found = find_sources(tmp_path)
    assert found.sources == ()
    reasons = {one.name: one.reason for one in found.skipped}
    assert reasons["alone.mp4"] == "its caption alone.txt is not there"
    assert reasons["mute.mp4"] == "its caption mute.txt is empty"
    assert reasons["twice.mp4"] == "twice.avi has the same name and would share its caption"
    assert reasons["twice.avi"] == "twice.mp4 has the same name and would share its caption"
    assert "UTF-8 text" in reasons["wide.mp4"]


def test_stories_have_their_shots_by_number_and_the_others_last(tmp_path):
    found = find_sources(stories(tmp_path))
    assert found.layout == "stories"
    assert [source.name for source in found.sources] == ["a", "b"]
    assert [shot.caption for shot in found.sources[1].shots] == [
        "shot 2 of b",
        "shot 10 of b",
        "shot last of b",
    ]


def test_a_story_goes_on_without_a_shot_that_is_broken(tmp_path):
    stories(tmp_path)
    (tmp_path / "caption" / "b" / "2.json").unlink()
    (tmp_path / "caption" / "b" / "10.json").write_text('{"text": "no"}')
    put(tmp_path / "video" / "a" / "0.avi")
    (tmp_path / "video" / "empty").mkdir()
    found = find_sources(tmp_path)
    assert [(one.name, len(one.shots)) for one in found.sources] == [("b", 1)]
    reasons = {one.name: one.reason for one in found.skipped}
    assert reasons["b/2.mp4"] == "its caption 2.json is not there"
    assert "no text under the key 'caption'" in reasons["b/10.mp4"]
    assert reasons["a/0.mp4"] == reasons["a/0.avi"] == "2 videos of its story have its name"
    assert reasons["empty"] == "its folder holds no video"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_of_one_video_are_its_shots_in_the_order_of_time(tmp_path, kind):
    put(tmp_path / "films" / "a.mp4")
    rows = [("films/a.mp4", "second", 3, None), ("./films/a.mp4", "first", 0, 2.5)]
    lines = [
        json.dumps(dict(zip(("path", "caption", "start", "end"), row, strict=True))) for row in rows
    ]
    if kind == "csv":
        lines = [
            "start,end,path,caption,more",
            "3,,films/a.mp4,second,x",
            "0,2.5,./films/a.mp4,first,",
        ]
    put(tmp_path / f"clips.{kind}", "\n".join(lines))
    for place in (tmp_path, tmp_path / f"clips.{kind}"):
        found = find_sources(place)
        assert found.layout == "table"
        [source] = found.sources
        assert [(shot.caption, shot.start, shot.end) for shot in source.shots] == [
            ("first", 0.0, 2.5),
            ("second", 3.0, None),
        ]
        assert {shot.path for shot in source.shots} == {tmp_path / "films" / "a.mp4"}


def test_what_a_table_has_that_is_no_clip_is_listed(tmp_path):
    put(tmp_path / "a.mp4")
    put(tmp_path / "b.mp4")
    lines = [
        '{"path": "a.mp4", "caption": "one"}',
        '{"path": "a.mp4", "caption": "again"}',
        '{"path": "b.mp4", "caption": "early", "start": 0, "end": 4}',
        '{"path": "b.mp4", "caption": "within", "start": 3, "end": 5}',
        '{"path": "http://127.0.0.1/c.mp4", "caption": "an address"}',
        "{",
        '{"path": "a.mp4"}',
    ]
    found = find_sources(put(tmp_path / "t.jsonl", "\n".join(lines)))
    assert [source.name for source in found.sources] == ["a.mp4", "b.mp4"]
    assert [shot.caption for source in found.sources for shot in source.shots] == ["one", "early"]
    told = [(one.name, one.reason) for one in found.skipped]
    assert ("a.mp4", "line 2 names it again, and gives no start and end") in told
    assert ("b.mp4", "line 4 begins at 3 s, within a shot that lasts to 4 s") in told
    assert ("http://127.0.0.1/c.mp4", "there is no such file") in told
    assert told[0][0] == "t.jsonl, line 6" and "is not JSON" in told[0][1]
    assert told[1] == ("t.jsonl, line 7", "a.mp4: 'caption' says what it shows, got None")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: None, "holds no clips: a clip is a video"),
        (lambda place: put(place / "t.csv", "path,caption\n"), "a line with a path and a caption"),
        (lambda place: put(place / "video/x") and put(place / "caption/x"), "video/STORY/1.mp4"),
        (lambda place: [put(place / f"{n}.csv") for n in "ab"], "holds 2 tables, a.csv and b.csv"),
    ],
)
def test_a_folder_without_clips_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_sources(tmp_path)


def test_a_place_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        find_sources(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no table of clips: those end in \.jsonl or \.csv"):
        find_sources(put(tmp_path / "a.mp4"))
