"""What a benchmark leaves while it goes on: files of their own, until the last ones are there."""

from longlive_recipes.bench.record import Unfinished, table, write

RECORD = {
    "benchmark": "some",
    "about": "what is measured.",
    "rows": {"one": {"seconds": 1.5}},
    "checked": "all",
    "hardware": {"cpu": "a CPU", "threads": 1, "cores": 2},
    "versions": {"torch": "2"},
    "commit": "abc",
    "command": "longlive bench some",
}


def test_a_table_says_what_is_missing():
    words = "- not finished: one of two runs"
    assert words in table(RECORD | {"unfinished": "one of two runs"}).splitlines()
    assert "not finished" not in table(RECORD)


def test_what_is_done_so_far_does_not_replace_an_earlier_record_and_goes_with_the_last(tmp_path):
    earlier = write(RECORD, "earlier", tmp_path, "some_cpu")
    parts = Unfinished(tmp_path, "some_cpu", lambda record: record["about"])
    for about in ("a third", "two thirds"):
        parts.keep(RECORD | {"about": about})
        assert (tmp_path / "some_cpu.unfinished.md").read_text() == about
    assert [path.name for path in parts.paths] == [
        "some_cpu.unfinished.json",
        "some_cpu.unfinished.md",
    ]
    assert earlier[1].read_text() == "earlier"
    parts.remove()
    assert sorted(tmp_path.iterdir()) == sorted(earlier)


def test_pictures_are_kept_too_and_without_a_folder_nothing_is(tmp_path):
    Unfinished(tmp_path, "some_cpu", table, lambda record: "<svg/>").keep(RECORD)
    assert (tmp_path / "some_cpu.unfinished.svg").read_text() == "<svg/>"
    nowhere = Unfinished(None, "some_cpu", table)
    nowhere.keep(RECORD)
    nowhere.remove()
    assert nowhere.paths == ()
