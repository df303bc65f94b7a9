"""Pages stand alone: bars are shares, texts are escaped, videos are in, nothing is fetched."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from longlive_models import Video
from longlive_recipes.evaluation import pages
from longlive_recipes.evaluation.drift import measure_file

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


class Checked(HTMLParser):
    """Fails on tags that are not closed, and collects what a page would fetch."""

    VOID = ("meta", "img", "br", "source", "path", "line", "rect", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def bar_widths(text: str) -> list[float]:
    return [float(width) for width in re.findall(r'<i style="width: ([\d.]+)%">', text)]


def test_a_bar_is_a_share_of_the_largest_of_its_column():
    table = pages.bars({"a": {"x": 2, "y": 0.5}, "b": {"x": 8, "y": None}}, most={"y": 1.0})
    assert bar_widths(table) == [25.0, 50.0, 100.0]
    assert bar_widths(pages.bars({"a": {"x": 7}})) == []  # of what would it be a share
    assert bar_widths(pages.bars({"a": {"x": 0}, "b": {"x": 0}})) == []
    Checked(table)


def test_texts_are_escaped():
    text = pages.whole("<a>", "<b>", [pages.bars({"<c>": {"<d>": "<e>"}})])
    for letter in "abcde":
        assert f"<{letter}>" not in text and f"&lt;{letter}&gt;" in text
    Checked(text)


@pytest.fixture
def videos(tmp_path):
    made = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=made)
    return [Video(frames, 8.0).save(tmp_path / name) for name in ("a.mp4", "b & c.mp4", "d.gif")]


def test_a_page_of_drift_holds_its_videos(videos):
    text = pages.drift_page({path: measure_file(path) for path in videos})
    page = Checked(text)
    assert len(page.fetched) == 2
    assert all(source.startswith("data:video/mp4;base64,") for source in page.fetched)
    assert "not held in this page" in text and "b &amp; c.mp4" in text
    assert "edge jump" in text


def test_a_large_video_and_too_many_are_left_out(videos, monkeypatch):
    monkeypatch.setattr(pages, "MOST_VIDEO_BYTES", 10)
    assert "base64" not in pages.videos(videos)
    assert pages.videos(videos * 10).count("<figure>") <= pages.MOST_VIDEOS
    many = pages.videos([Path(f"v{number}.gif") for number in range(24)])
    named = [number for number in range(24) if f"v{number}.gif" in many]
    assert named == list(range(0, 24, 2))


def test_a_page_of_stored_results():
    result = json.loads((RESULTS / "pocket_evaluation.json").read_text())
    text = pages.scores_page(result)
    assert Checked(text).fetched == []
    for suite in result["suites"]:
        assert f"<td>{suite}</td>" in text


@pytest.mark.parametrize("name", ["generation_cuda", "kv_decode_cuda", "balanced_sp_cpu"])
def test_a_page_of_stored_benchmarks(name):
    record = json.loads((RESULTS / f"{name}.json").read_text())
    text = pages.bench_page([record])
    assert Checked(text).fetched == []
    assert record["commit"] in text
    assert bool(bar_widths(text)) is (name != "generation_cuda")  # which has a single row
    assert all(0 <= width <= 100 for width in bar_widths(text))


def test_a_page_of_verdicts(videos):
    shot = {"shape": "circle", "colour": "red", "steadiness": 0.5, "cuts": [1], "right": True}
    text = pages.judged_page({str(videos[0]): {"shots": [shot, shot], "cuts": [3]}})
    Checked(text)
    assert text.count(", shot ") == 2 and "True" not in text
    assert bar_widths(text) == [50.0, 50.0]
