"""`longlive evaluate --suite` and `--html`, and `longlive bench --html`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_models import Video


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=made)
    Video(frames, 8.0).save("v.mp4")


def longlive(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_drift_of_a_video_as_text_as_json_and_as_a_page():
    done = longlive("evaluate", "--suite", "drift", "v.mp4", "--html", "v.html", "-o", "v.json")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("v.mp4: 40 frames at 8 a second")
    assert "jump at edges of blocks" in done.stdout
    assert "v.html shows it" in done.stderr
    assert "data:video/mp4" in Path("v.html").read_text()
    stored = json.loads(Path("v.json").read_text())
    assert stored["suite"] == "drift" and stored["videos"]["v.mp4"]["frames"] == 40
    line = json.loads(longlive("evaluate", "--suite", "drift", "v.mp4", "--json").stdout)
    assert line["video"] == "v.mp4" and line["edge_jump"] > 0


def test_vbench_is_prepared_and_missing_weights_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    info = [{"prompt_en": "a circle", "dimension": ["imaging_quality"]}]
    Path("info.json").write_text(json.dumps(info))
    done = longlive("evaluate", "--suite", "vbench", "info.json", "-o", "bench")
    assert done.exit_code == 1  # something was written
    assert "bench: 5 videos to be made with: longlive generate --prompts" in done.stdout
    assert "musiq_spaq_ckpt-358bb6af.pth (imaging_quality)" in done.stderr
    assert "bench was written." in done.stderr
    weight = Path(tmp_path, ".cache/vbench/pyiqa_model/musiq_spaq_ckpt-358bb6af.pth")
    weight.parent.mkdir(parents=True)
    weight.touch()
    done = longlive("evaluate", "--suite", "vbench", "info.json", "-o", "again")
    assert done.exit_code == 0 and "then judge them with: vbench evaluate" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "drft", "v.mp4"], "did you mean 'drift'?"),
        (["--suite", "drift"], "measures videos: name them"),
        (["--suite", "vbench"], "takes VBench's list of prompts"),
        (["--suite", "drift", "no.mp4"], "there is no video 'no.mp4'"),
        (["no.mp4"], "there is no video 'no.mp4'"),
        (["v.mp4", "--html", "v.txt"], "give it the suffix .html"),
        (["v.mp4", "--html", "old.html"], "old.html exists"),
        (["--suite", "drift", "v.mp4", "--kv-cache", "fp8"], "videos are judged from their pixels"),
        (["v.mp4", "--set", "seed=1"], "videos and --set do not go together"),
        (["v.mp4", "--recipe", "pocket"], "videos and --recipe do not go together"),
        (["v.mp4", "--config", "a.yaml"], "videos and --config do not go together"),
        (["--fps", "12"], "--fps 12 is the rate of videos that are there, and none is named"),
        (
            ["--suite", "vbench", "v.mp4", "--html", "a.html", "--json", "--fps", "8"],
            "--suite vbench and --html, --fps, --json do not go together",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(words, message):
    Path("old.html").write_text("old")
    done = longlive("evaluate", *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert Path("old.html").read_text() == "old"


def test_a_video_that_is_not_there_is_refused_without_torch():
    code = (
        "import sys\n"
        "from longlive_cli.main import app\n"
        "try:\n"
        "    app(['evaluate', 'nope.mp4'])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 2\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "there is no video 'nope.mp4'" in done.stderr


def test_a_benchmark_is_shown_on_a_page(monkeypatch):
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    record = json.loads((results / "nvfp4_cuda.json").read_text())

    class Prepared:
        name, stem, picture = "nvfp4", "nvfp4_cpu", None

        def measure(self, keep):
            return record

        def table(self, record):
            return "a table"

    monkeypatch.setattr("longlive_recipes.bench.run.prepare", lambda name, options: Prepared())
    done = longlive("bench", "nvfp4", "--html", "bench.html")
    assert done.exit_code == 0, done.output
    assert record["commit"] in Path("bench.html").read_text()


@pytest.mark.parametrize("suite", ["shapes", "drift"])
def test_a_dry_run_measures_no_video(suite):
    given = ("v.mp4", "--suite", suite, "-o", "v.json", "--html", "v.html", "--dry-run", "--json")
    done = longlive("evaluate", *given)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"suite": suite, "videos": ["v.mp4"]}
    assert sorted(path.name for path in Path().iterdir()) == ["v.mp4"]


def test_what_was_measured_before_a_damaged_video_is_kept():
    Path("broken.mp4").write_bytes(b"no video")
    done = longlive("evaluate", "--suite", "drift", "v.mp4", "broken.mp4", "-o", "v.json")
    assert done.exit_code != 0
    assert "1 of 2 videos were measured before that." in done.stderr
    assert list(json.loads(Path("v.json").read_text())["videos"]) == ["v.mp4"]


def test_an_adapter_that_is_not_there_is_refused_by_a_dry_run_too():
    words = ("--recipe", "pocket", "--set", "lora=[nowhere.safetensors]", "--dry-run")
    done = longlive("evaluate", *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert "there is no adapter 'nowhere.safetensors'" in done.stderr
