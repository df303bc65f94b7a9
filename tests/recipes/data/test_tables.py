"""Lines of a table become shots, or say why they are none."""

import pytest

from longlive_recipes.data.tables import BrokenRow, Row, read_table


def rows(path, text):
    path.write_text(text)
    return list(read_table(path))


def test_an_object_may_hold_several_shots(tmp_path):
    shots = '[{"caption": "x", "end": 1}, {"caption": " y\\n z", "start": 1}]'
    text = '{"path": "a.mp4", "shots": ' + shots + "}"
    first, second = rows(tmp_path / "t.jsonl", text)
    assert first == Row(line=1, path="a.mp4", caption="x", start=0.0, end=1.0)
    assert second == Row(line=1, path="a.mp4", caption="y z", start=1.0, end=None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "a line holds an object"),
        ('{"path": 3, "caption": "x"}', "'path' names the video's file, got 3"),
        ('{"path": "a", "caption": " "}', "'caption' says what it shows"),
        ('{"path": "a", "caption": "x", "start": -1}', "'start' is at least 0|'start' must be"),
        ('{"path": "a", "caption": "x", "end": "soon"}', "'end'"),
        ('{"path": "a", "caption": "x", "start": 2, "end": 2}', "a shot ends after its start"),
        ('{"path": "a", "shots": []}', "'shots' is empty"),
        ('{"path": "a", "shots": [3]}', "'shots' is a list of objects"),
    ],
)
def test_a_line_that_is_no_shot_says_why_and_the_next_is_read(tmp_path, line, reason):
    broken, fine = rows(tmp_path / "t.jsonl", line + '\n\n{"path": "b", "caption": "y"}\n')
    assert isinstance(broken, BrokenRow)
    assert broken.name == "t.jsonl, line 1"
    assert any(one in broken.reason for one in reason.split("|")), broken.reason
    assert isinstance(fine, Row) and fine.line == 3


def test_a_csv_keeps_commas_and_lines_in_quotes(tmp_path):
    text = 'path,caption,start\na.mp4,"a star, red\nand ""big""",\nb.mp4,x,soon\n'
    fine, broken = rows(tmp_path / "t.csv", text)
    assert fine.caption == 'a star, red and "big"'
    assert broken.name == "t.csv, line 4"


def test_a_csv_without_its_columns_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no column 'caption', its first line has"):
        rows(tmp_path / "t.csv", "path,text\na,b\n")
    with pytest.raises(ValueError, match="no CSV file from line"):
        rows(tmp_path / "t.csv", 'path,caption\na,"b"c\n')
