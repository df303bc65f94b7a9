"""The page of a run, and the page that compares several: whole, alone, escaped."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from longlive_recipes.training.page import is_page, page
from longlive_recipes.training.report import comparison, report, write_report
from longlive_recipes.training.run_folder import RunFolder
from tests.recipes.tiny_runs import Stopped, Toy, quiet_run, stop_at, train_toy

VOID = {"meta", "img", "br", "line", "path"}


class Page(HTMLParser):
    """The tags and texts of a page; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "toy"
    train_toy(Toy(run=quiet_run(place, samples_every=2)))
    return place


def test_a_run_that_ends_leaves_a_page_that_needs_nothing_else(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text == report(RunFolder.read(folder))
    seen = Page(text)
    names = [tag for tag, _ in seen.tags]
    assert names.count("svg") == 7  # loss, slope, rate; slope and offset; time and memory
    assert names.count("img") == 2
    assert not {"script", "link", "iframe"} & set(names)
    for _, values in seen.tags:
        assert all(value.startswith("data:") for name, value in values.items() if name == "src")
        assert not {"href", "onload"} & set(values)
    assert "url(" not in text
    assert "@import" not in text
    assert text.index("after step 8") < text.index("after step 4")  # the newest first
    for said in ("after step 8", "budget.steps", "seconds a step, median", "peak memory", "cpu"):
        assert any(said in one for one in seen.texts), said
    assert "prefers-color-scheme: dark" in text


def test_text_of_files_is_escaped(folder, tmp_path):
    other = tmp_path / "<i>run"
    shutil.copytree(folder, other)
    record = json.loads((other / "run.json").read_text())
    record["config"]["<script>alert(1)</script>"] = "<script>alert(2)</script>"
    record["config"]["sample_prompts"] = ["<b>bold</b> & more"]
    record["command"] = ["longlive", "</td><script>"]
    record["hardware"]["gpu"] = '"><img src=x>'
    (other / "run.json").write_text(json.dumps(record))
    (other / "train.csv").write_text("step,<u>loss\n1,0.5\n2,0.25\n")
    run = RunFolder.read(other)
    for text in (report(run), comparison([run, RunFolder.read(folder)])):
        seen = Page(text)
        assert not {"script", "i", "u"} & {tag for tag, _ in seen.tags}
        assert all(values["src"].startswith("data:") for tag, values in seen.tags if tag == "img")
        assert "<b>bold</b> & more" in seen.texts  # what the samples were asked to show


def test_a_run_that_stopped_leaves_a_page_and_one_that_never_began_does_not(tmp_path):
    for step, there in ((3, True), (0, False)):
        place = tmp_path / str(step)
        with pytest.raises(Stopped):
            train_toy(Toy(run=quiet_run(place)), before=stop_at(step))
        assert (place / "report.html").exists() == there


def test_a_report_that_cannot_be_written_does_not_cost_the_run(tmp_path, caplog):
    (tmp_path / "report.html").mkdir()
    module = train_toy(Toy(run=quiet_run(tmp_path)))
    assert module.steps_taken == 8
    assert "no report of the run was written" in caplog.text


def test_several_runs_share_their_pictures(folder, tmp_path):
    train_toy(Toy(run=quiet_run(tmp_path / "toy"), seed=4))
    runs = [RunFolder.read(folder), RunFolder.read(tmp_path / "toy")]
    text = comparison(runs)
    seen = Page(text)
    assert [tag for tag, _ in seen.tags].count("img") == 1  # the other wrote no samples
    lines = [values["class"] for tag, values in seen.tags if tag == "path"]
    assert lines.count("line c0") == lines.count("line c1") == 8  # seven pictures and the legend
    assert str(folder) in seen.texts  # both are called toy
    table = text[text.index("Where their configs differ") :]
    assert re.search(r"<td>seed</td><td>3</td><td>4</td>", table)
    assert "budget.steps" not in table


def test_a_run_without_a_step_has_a_page(tmp_path):
    (tmp_path / "run.json").write_text('{"recipe": "Toy", "config": {}}')
    assert "No step has been logged yet" in write_report(tmp_path).read_text()
    run = RunFolder.read(tmp_path)
    assert "They are the same" in comparison([run, run])


def test_pages_are_told_from_other_files(tmp_path):
    (tmp_path / "a.html").write_text(page("a", ["b"]))
    (tmp_path / "b.html").write_text("<html>my own</html>")
    assert is_page(tmp_path / "a.html")
    assert not is_page(tmp_path / "b.html")
