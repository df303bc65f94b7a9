"""`longlive train` end to end: train, stop, resume, be refused, generate with the result."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_models.video.files import read_video
from longlive_recipes.train_ar import TrainARModule

PATHS = {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def longlive(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    done = longlive(*arguments)
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_model_is_trained_and_generates(tmp_path):
    done = longlive("train", "ar_tiny", "--set", "run.samples_every=0")
    assert done.exit_code == 0, done.output
    assert done.stdout == "runs/ar_tiny/model\n"
    assert "100% step 4, loss " in done.stderr  # what was measured, where no bar can be seen
    assert done.stderr.splitlines()[:4] == [
        f"longlive: drawing and encoding {clips} clips of {blocks} blocks"
        for clips, blocks in ((3, 2), (1, 2), (2, 3), (1, 3))
    ]
    prompt = "a red circle moves right on a navy background"
    done = longlive("generate", prompt, "--model", "runs/ar_tiny/model", "-o", "a.mp4")
    assert done.exit_code == 0, done.output
    assert read_video("a.mp4")[0].shape == (60, 32, 32, 3)

    message = refused("train", "ar_tiny")
    assert "runs/ar_tiny holds a run already: go on with it (--resume runs/ar_tiny)" in message
    message = refused("train", "ar_tiny", "--resume", "runs/ar_tiny", "--set", "seed=4")
    assert "(seed: 0 -> 4)" in message
    more = ("--set", "run.output=runs/more", "--set", "budget.steps=6")
    done = longlive("train", "ar_tiny", "--resume", "runs/ar_tiny", *more)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "more" / "train.csv").read_text().count("\n") == 3


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch):
    step = TrainARModule.training_step

    def interrupted(module, now):
        if now == 2:
            raise KeyboardInterrupt
        return step(module, now)

    settings = ("--set", "run.checkpoint_minutes=0", "--set", "run.samples_every=0")
    with monkeypatch.context() as patch:
        patch.setattr(TrainARModule, "training_step", interrupted)
        done = longlive("train", "ar_tiny", *settings)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == (
        "longlive: interrupted; 2 steps are kept; go on with: longlive train ar_tiny "
        "--set run.checkpoint_minutes=0 --set run.samples_every=0 --resume runs/ar_tiny"
    )
    done = longlive("train", "ar_tiny", "--resume", "runs/ar_tiny", *settings)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "ar_tiny" / "train.csv").read_text().count("\n") == 5


def signaled(number: int, monkeypatch, *settings: str, at: int = 1, times: int = 1):
    """A run whose process gets a signal within step ``at``, counted from 0."""
    step = TrainARModule.training_step

    def struck(module, now):
        for _ in range(times if now == at else 0):
            signal.raise_signal(number)
        return step(module, now)

    with monkeypatch.context() as patch:
        patch.setattr(TrainARModule, "training_step", struck)
        return longlive("train", "ar_tiny", "--set", "run.samples_every=0", *settings)


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")]
)
def test_a_signal_ends_a_run_after_its_step_and_keeps_that(number, said, tmp_path, monkeypatch):
    done = signaled(number, monkeypatch)
    assert done.exit_code == 128 + number, done.output
    again = "longlive train ar_tiny --set run.samples_every=0 --resume runs/ar_tiny"
    end = f"longlive: {said}; 2 steps are kept; go on with: {again}"
    assert done.stderr.splitlines()[-1] == end
    done = longlive(*shlex.split(again)[1:])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "ar_tiny" / "train.csv").read_text().count("\n") == 5


def test_a_second_interrupt_does_not_wait_and_promises_nothing(monkeypatch):
    done = signaled(signal.SIGINT, monkeypatch, at=0, times=2)
    assert done.exit_code == 130
    end = "longlive: interrupted; nothing is kept, for no checkpoint was written: begin again."
    assert done.stderr.splitlines()[-1] == end


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    settings = ("--set", "run.samples_every=0", "--set", "run.checkpoint_minutes=0")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        done = longlive("train", "ar_tiny", *settings)
    assert done.exit_code == 1, done.output
    end = done.stderr.splitlines()[-1]
    assert "the checkpoint of step 2 could not be written (No space left on device)" in end
    assert "1 steps are kept; go on with: longlive train ar_tiny --set " in end
    assert end.endswith(" --resume runs/ar_tiny")
    kept = tmp_path / "runs" / "ar_tiny" / "checkpoints"
    assert [file.name for file in kept.iterdir()] == ["last.ckpt"]
    assert longlive("train", "ar_tiny", "--resume", "runs/ar_tiny", *settings).exit_code == 0


def test_ranks_that_nobody_asked_for_are_refused_and_a_slurm_shell_is_not(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
            patch.setenv(name, value)
        assert "2 processes of this command were started" in refused("train", "ar_tiny")
        assert "to run as 1" in refused("train", "vae_tiny")
    assert list(tmp_path.iterdir()) == []
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_NODELIST"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    done = longlive("train", "ar_tiny", "--set", "run.samples_every=0")
    assert done.exit_code == 0, done.output


def test_the_model_of_a_checkpoint_is_written_anew(tmp_path):
    settings = ("--set", "run.samples_every=0", "--set", "run.progress_bar=false")
    assert longlive("train", "vae_tiny", *settings).exit_code == 0
    file = tmp_path / "runs" / "vae_tiny" / "vae" / "model.safetensors"
    written = file.read_bytes()
    file.unlink()
    again = ("train", "vae_tiny", "--resume", "runs/vae_tiny", "--export")
    assert longlive(*again, "--dry-run").exit_code == 0
    assert not file.exists()
    done = longlive(*again)
    assert (done.exit_code, done.stdout) == (0, "runs/vae_tiny/vae\n"), done.output
    assert file.read_bytes() == written
    wide = ("--set", "vae.encoder_dim=12")
    assert "was begun with another config (vae.encoder_dim: " in refused(*again, *wide)
    elsewhere = refused(*again, *wide, "--set", "run.output=runs/wide")
    assert "does not hold the weights of this ModuleDict (wrong shapes: vae." in elsewhere
    assert "a checkpoint of another recipe" in elsewhere
    assert not (tmp_path / "runs" / "wide").exists()
    assert "name it with --resume" in refused("train", "vae_tiny", "--export")


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    assert "there is no checkpoint 'none.ckpt'" in refused(
        "train", "vae_tiny", "--resume", "none.ckpt"
    )
    assert "there is no model 'nowhere'" in refused("train", "ar_tiny", "--set", "vae=nowhere")
    assert "did you mean 'validate_every'" in refused(
        "train", "ar_tiny", "--set", "run.validate_evry=3"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("run.json", "the run's record"),
        ("train.csv", "the run's losses"),
        ("checkpoints/last.ckpt", "the run's checkpoint"),
        ("model/config.yaml", "the model that is trained"),
    ],
)
def test_a_config_that_the_run_would_replace_is_refused(name, what, link, tmp_path):
    file = tmp_path / "runs" / "own" / name
    given = tmp_path / "other" / "config.yaml" if link else file
    given.parent.mkdir(parents=True)
    given.write_text("run: {output: runs/own}\n")
    if link and "model" in name:
        file.parent.parent.mkdir(parents=True)
        file.parent.symlink_to(given.parent)
    elif link:
        file.parent.mkdir(parents=True)
        file.hardlink_to(given)
    before = given.read_text()
    own = ("--resume", "runs/own") if name.endswith(".ckpt") else ()  # else it holds a run already
    message = refused("train", "ar_tiny", "--config", str(given), *own)
    assert f"{what} would replace" in message
    assert "and that is read here as --config" in message
    assert "overwrite" not in message
    assert given.read_text() == before


def test_a_run_beside_its_config_is_no_clash(tmp_path):
    file = tmp_path / "runs" / "own" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("run: {output: runs/own}\n")
    assert longlive("train", "ar_tiny", "--config", str(file), "--dry-run").exit_code == 0


def test_runs_are_drawn_side_by_side_without_torch(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"recipe": "Toy", "config": {"seed": 1}}')
        (tmp_path / name / "train.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
    code = (
        "import sys\n"
        "from longlive_cli.main import app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )

    def plot(*words: str):
        command = [sys.executable, "-c", code, "train", "--plot", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=PATHS)

    done = plot("one", "two")
    assert (done.returncode, done.stdout) == (0, "runs.html\n"), done.stderr
    assert "side by side" in (tmp_path / "runs.html").read_text()
    assert plot("one", "-o", "runs.html").stdout == "runs.html\n"  # a page of ours is replaced
    assert "side by side" not in (tmp_path / "runs.html").read_text()
    done = plot("one", "nowhere", "-o", "new/a.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("longlive: nowhere is no folder: a run's folder is what run.out")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_pages_of_runs_replace_nothing_else_and_train_nothing(tmp_path):
    (tmp_path / "own.html").write_text("<html>mine</html>")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"config": {}}')
    assert "own.html exists and is no page of runs" in refused(
        "train", "--plot", "run", "-o", "own.html"
    )
    assert "ends in .html" in refused("train", "--plot", "run", "-o", "runs.png")
    assert "takes no option but --output" in refused("train", "--plot", "run", "--set", "seed=1")
    assert "--plot and --json do not go together" in refused("train", "--plot", "run", "--json")
    assert longlive("train", "--plot", "run", "--dry-run").stdout == "runs.html\n"
    assert "--json says how --dry-run prints" in refused("train", "ar_tiny", "--json")
    logged = ("--export", "--resume", "run", "--logger", "wandb")
    assert "--export and --logger do not go together" in refused("train", "ar_tiny", *logged)
    assert "a run has one recipe, got 2: ar_tiny, run" in refused("train", "ar_tiny", "run")
    assert "is the file of --plot" in refused("train", "ar_tiny", "-o", "a.html")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["own.html", "run"]


def test_the_model_of_the_best_checkpoint_is_written(tmp_path):
    quiet = ("--set", "run.samples_every=0", "--set", "run.progress_bar=false")
    keep = ("--set", "run.best_k=1", "--set", "run.best_metric=psnr", "--set", "run.best_mode=max")
    keep = (*quiet, *keep, "--set", "run.validate_every=1", "--set", "optimization.ema_decay=0")
    message = refused("train", "vae_tiny", *keep, "--set", "run.best_metric=psn")
    assert "did you mean 'psnr'?" in message
    assert list(tmp_path.iterdir()) == []
    done = longlive("train", "vae_tiny", *keep)
    assert done.exit_code == 0, done.output
    [best] = (tmp_path / "runs" / "vae_tiny" / "checkpoints" / "best").glob("*.ckpt")
    file = tmp_path / "runs" / "vae_tiny" / "vae" / "model.safetensors"
    written = {}
    for name, words in {
        "last": ("runs/vae_tiny",),
        "best": ("runs/vae_tiny", "--best"),
        "named": (str(best),),
    }.items():
        done = longlive("train", "vae_tiny", "--resume", *words, "--export", *keep)
        assert done.exit_code == 0, done.output
        written[name] = file.read_bytes()
    assert written["best"] == written["named"]
    assert (written["best"] == written["last"]) == ("0004" in best.name)
    assert "--best says which checkpoint" in refused("train", "vae_tiny", "--best")
    nothing = ("--resume", "runs", "--export", "--best")
    assert "runs has no best checkpoint" in refused("train", "vae_tiny", *nothing)


def test_loggers_that_cannot_be_had_are_refused_before_torch_is_loaded(tmp_path):
    for name, said in (("comet", "there is no logger 'comet'"), ("wandb", "longlive[wandb]")):
        code = (
            "import sys\nfrom longlive_cli.main import app\n"
            "sys.modules['wandb'] = None\n"  # as if it was not installed
            "try:\n    app(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules\n"
        )
        command = [sys.executable, "-c", code, "train", "ar_tiny", "--logger", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=PATHS)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr


@pytest.mark.slow
def test_a_process_that_is_signaled_says_the_command_that_goes_on(tmp_path):
    """Ctrl-C, then SIGTERM, of real processes; the run ends as one that was never stopped."""
    steps = ("--set", "budget.steps=40", "--set", "run.samples_every=0")
    whole = ("train", "vae_tiny", *steps, "--set", "run.output=a whole run")
    assert longlive(*whole).exit_code == 0
    words = ["longlive", "train", "vae_tiny", *steps, "--set", "run.output=a run"]
    table, rows = tmp_path / "a run" / "train.csv", 3
    start = (sys.executable, "-c", "from longlive_cli.main import app; app()")
    for number in (signal.SIGINT, signal.SIGTERM):
        pipe, paths = subprocess.PIPE, {**os.environ, **PATHS}
        done = subprocess.Popen((*start, *words[1:]), cwd=tmp_path, stderr=pipe, env=paths)
        until = time.monotonic() + 120
        while not table.exists() or table.read_text().count("\n") < rows:
            assert done.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        done.send_signal(number)
        end = done.communicate(timeout=120)[1].decode().splitlines()[-1]
        assert done.returncode == 128 + number, end
        kept, said = re.search(r"; (\d+) steps are kept; go on with: (longlive .*)$", end).groups()
        assert table.read_text().count("\n") == 1 + int(kept)
        words, rows = shlex.split(said), int(kept) + 4
        assert words[-2:] == ["--resume", "a run"]
    assert longlive(*words[1:]).exit_code == 0
    assert table.read_text() == (tmp_path / "a whole run" / "train.csv").read_text()
