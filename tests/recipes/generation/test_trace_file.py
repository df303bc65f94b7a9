"""`longlive generate --trace`: a file for Perfetto and a summary; what cannot be one is refused."""

import json

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from tests.models.tiny_pipeline import write_tiny_folder


@pytest.fixture
def generate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_folder(tmp_path / "model")
    usual = ("a red circle", "--model", "model", "--seconds", "1", "--device", "cpu")

    def run(*words: str):
        return CliRunner().invoke(app, ["generate", *usual, *words])

    return run


def test_a_video_is_traced_to_a_file_and_summed_up(generate, tmp_path):
    result = generate("-o", "a.mp4", "--trace", "traces/a.json", "--steps", "2")
    assert result.exit_code == 0, result.output
    events = json.loads((tmp_path / "traces" / "a.json").read_text())["traceEvents"]
    work = {(event["cat"], event["args"]["block"]) for event in events if event["ph"] == "X"}
    lanes = ("denoise", "clean pass", "decode", "host copy", "encode")
    assert {(lane, 0) for lane in lanes} <= work
    assert len([e for e in events if e["ph"] == "X" and e["cat"] == "denoise"]) % 2 == 0
    assert "critical path of" in result.output
    assert "bubbles: denoise" in result.output
    assert "the trace is in traces/a.json" in result.output
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["a.json"]


def test_frames_are_the_same_with_a_trace(generate, tmp_path):
    assert generate("-o", "a.gif").exit_code == 0
    assert generate("-o", "b.gif", "--trace", "b_trace.json").exit_code == 0
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "a.mp4", "--trace", "a.json"), "the name of another output"),
        (("-o", "a.mp4", "--trace", "trace.txt"), "a trace is JSON"),
        (("-o", "a.mp4", "--trace", "model/model_index.json"), "model"),
        (("-o", "a.mp4", "--trace", "old.json"), "old.json exists"),
        (("-o", "a.mp4", "--trace", "t.json", "--nproc", "2"), "--trace is of one process"),
    ],
)
def test_what_can_be_no_trace_is_refused_before_anything_is_made(
    generate, tmp_path, words, message
):
    (tmp_path / "old.json").write_text("{}")
    result = generate(*words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "a.mp4").exists()
