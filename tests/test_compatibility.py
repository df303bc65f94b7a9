"""Files of commit cc03c32, before modules moved, are still read: `tests/samples/cc03c32`."""

import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_core import __version__
from longlive_models import LongLivePipeline
from longlive_models.settings import GenerationSettings
from longlive_models.stream_snapshot import SnapshotSummary
from longlive_models.video.files import read_video
from longlive_recipes.generation.starting_points import Recorded, read_record
from tests.recipes.tiny_runs import column

SAMPLES = Path(__file__).parent / "samples" / "cc03c32"
SMALLER = (  # what the runs were begun with, apart from what `make.sh` shares with every test
    *("vae=vae", "run.progress_bar=false", "run.samples_every=0", "run.validate_every=2"),
    *("phases.0.batch=2", "phases.1.batch=2", "validation_clips=2", "model.dim=8"),
    *("model.ffn_dim=8", "model.num_layers=1", "model.num_heads=1", "model.freq_dim=8"),
    *("text.dim=8", "model.text_dim=8", "text.num_heads=1", "text.ffn_dim=8"),
    # what ar_tiny had then
    *("model.in_channels=16", "model.out_channels=16", "shift=5", "optimization.muon=[]"),
)


@dataclass(frozen=True)
class Empty:
    """A config without fields."""


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch) -> None:
    """A copy of the samples, which the commands may write into."""
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def longlive(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def assert_shows(path: str | Path, wanted: str | Path) -> None:
    """The same video, but for what another CPU's sums leave in the last digits."""
    frames, meant = (read_video(file)[0].float() for file in (path, wanted))
    assert frames.shape == meant.shape
    assert (frames - meant).abs().mean() < 0.5


def test_a_model_folder_loads_and_makes_its_video():
    for seed in ("3", "4"):
        asked = (
            "generate",
            "a red circle",
            "--model",
            "model",
            "--device",
            "cpu",
            "--seconds",
            "2",
        )
        longlive(*asked, "--seed", seed, "-o", f"seed{seed}.mp4")
    assert_shows("seed3.mp4", "video.mp4")
    with pytest.raises(AssertionError):  # the bound tells videos apart
        assert_shows("seed4.mp4", "video.mp4")


@pytest.mark.parametrize("name", ["video", "steered"])
def test_a_record_is_replayed(name):
    longlive("generate", "--replay", f"{name}.json", "--model", "model", "-o", "again.mp4")
    assert_shows("again.mp4", f"{name}.mp4")


def video_is_here(snapshot: Path) -> None:
    """Let the snapshot name its video here, not in the folder where the samples were made."""
    data = snapshot.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].replace(b"/tmp/cc03c32/", f"{Path.cwd()}/".encode()).rstrip()
    header += b" " * (-len(header) % 8)
    snapshot.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def test_a_snapshot_is_resumed_into_the_file_that_was_stopped():
    assert len(read_video("stopped.mp4")[0]) == 5
    video_is_here(Path("stopped.snapshot"))
    resumed = ("generate", "--resume", "stopped.snapshot", "--model", "model")
    longlive(*resumed, "-o", "whole.mp4")
    assert_shows("whole.mp4", "video.mp4")


def test_a_snapshot_is_resumed_in_python():
    pipe = LongLivePipeline.from_pretrained("model", device="cpu")
    blocks = list(pipe.resume("stopped.snapshot"))
    assert [block.index for block in blocks] == [1, 2]
    meant = list(pipe.stream("a red circle", seconds=2, seed=3))[1:]
    for block, other in zip(blocks, meant, strict=True):
        assert (block.frames.float() - other.frames.float()).abs().mean() < 0.5


def test_versions_with_the_same_frames_go_on_with_each_others_snapshots():
    origin = SnapshotSummary.read(Path("stopped.snapshot")).origin
    assert origin.version == "0.1.0"
    origin.require(replace(origin, version=__version__), Path("v"))
    with pytest.raises(ValueError, match="v was made with version '0.1.0', but here it is '99"):
        origin.require(replace(origin, version="99.0.0"), Path("v"))


@pytest.mark.parametrize("file", ["video.json", "stopped.snapshot"])
def test_a_setting_that_came_later_had_its_default(file):
    """What an earlier version wrote lacks it; another value than the default differs."""
    if file == "video.json":
        record = read_record(Path(file))
        here = GenerationSettings(**record.settings)
        meant = Recorded(path=Path(file), model_sha256="", settings=record.settings, config={})
        assert "sampler" not in meant.settings
        meant.require("", here.to_dict(), Empty())
        with pytest.raises(ValueError, match='sampler: "unipc" -> "euler"'):
            meant.require("", replace(here, sampler="euler").to_dict(), Empty())
    else:
        origin = SnapshotSummary.read(Path(file)).origin
        assert "sampler" not in origin.settings
        here = origin.settings | {"sampler": "unipc"}
        origin.require(replace(origin, settings=here), Path(file))
        with pytest.raises(ValueError, match="sampler 'unipc', but here it is 'euler'"):
            origin.require(replace(origin, settings=here | {"sampler": "euler"}), Path(file))


@pytest.mark.parametrize("run", ["run", "sharded"])
def test_a_run_takes_the_steps_that_it_would_have_taken(run, tmp_path):
    with tarfile.open("runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    settings = [part for one in SMALLER for part in ("--set", one)]
    go_on = ("train", "ar_tiny", "--resume", run, *settings)
    longlive(*go_on, "--set", f"run.output={run}", "--set", "budget.steps=2", "--export")
    longlive(*go_on, "--set", "run.output=longer", "--set", "budget.steps=4")
    logs = tmp_path / "longer" / "train.csv", tmp_path / run / "went_on.csv"
    for name in ("step", "learning_rate", "loss"):
        made, meant = (column(log, name) for log in logs)
        assert made == pytest.approx(meant, rel=1e-4)
