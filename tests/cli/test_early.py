"""What is refused by name, suffix or file is refused before torch is loaded, and at once."""

import resource
import subprocess
import sys

import pytest

MOST_SECONDS = 1.2
"""Of one core. It takes 0.3; torch alone takes 2, and a busy machine counts half as much again."""

REFUSED = {
    "suffix": (["generate", "a", "-o", "x.webm"], "a video's suffix is one of .mp4"),
    "output": (["generate", "a", "-o", "there.mp4"], "there.mp4 exists: pass --overwrite"),
    "no prompts": (["generate", "--prompts", "none.txt"], "no prompt file 'none.txt'"),
    "no image": (["generate", "a", "--image", "none.png"], "none.png', which is to be read"),
    "no config": (["generate", "a", "--config", "none.yaml"], "none.yaml cannot be read (No such"),
    "no snapshot": (["generate", "--resume", "none"], "there is no snapshot 'none'"),
    "no record": (["live", "--replay", "x"], "No such option: --replay"),
    "setting": (["generate", "a", "--set", "stesp=3"], "did you mean 'steps'"),
    "steps": (["generate", "a", "--steps", "0"], "steps is at least 1, got 0"),
    "seconds": (["generate", "a", "--seconds", "nan"], "seconds is a finite number, got nan"),
    "weights": (["generate", "a", "--weights", "fp7"], "weights='fp7' is no precision"),
    "model": (["generate", "a", "--model", "./none"], "there is no model './none'"),
    "home": (["generate", "a", "--model", "~nobody/x"], "'~nobody/x'"),
    "input": (["generate", "--prompts", "s.json", "-o", "s.mp4"], "the record of s.mp4 would"),
    "fork": (["generate", "a", "--fork", "b"], "--fork 'b' has no snapshot to begin with"),
    "live": (["live", "a", "-o", "x.mov"], "a video's suffix is one of .mp4"),
    "recipe": (["train", "ar_tni"], "did you mean 'ar_tiny'"),
    "evaluation": (["evaluate", "--recipe", "pockt"], "did you mean 'pocket'"),
    "its setting": (["evaluate", "--set", "stps=1"], "did you mean 'steps'"),
    "a run's setting": (["train", "ar_tiny", "--set", "sed=3"], "did you mean 'seed'"),
    "its part": (["train", "vae_tiny", "--set", "budget.stps=3"], "did you mean 'steps'"),
    "its place": (["train", "ar_tiny", "--set", "phases.0.lenth=3"], "(in phases.0.lenth)"),
    "its bound": (["train", "ar_tiny", "--set", "shift=-1"], "TrainAR.shift is above 0, got -1.0"),
    "its rate": (
        ["train", "vae_tiny", "--set", "optimization.learning_rate=2"],
        "Optimization.learning_rate is at most 1, got 2.0",
    ),
    "its checkpoint": (["train", "ar_tiny", "--resume", "none"], "there is no checkpoint 'none'"),
    "its folder": (["train", "ar_tiny", "--set", "run.output=run"], "run holds a run already"),
    "its config": (["train", "ar_tiny", "--config", "none.yaml"], "none.yaml cannot be read"),
    "result": (["evaluate", "-o", "there.mp4"], "there.mp4 exists: pass --overwrite"),
    "benchmark": (["bench", "genration"], "did you mean 'generation'"),
    "its option": (["bench", "generation", "--set", "secnds=1"], "did you mean 'seconds'"),
    "its number": (["bench", "nvfp4", "--repeats", "0"], "repeats is at least 1, got 0"),
    "its model": (["bench", "generation", "--model", "./none"], "there is no model './none'"),
    "its sides": (["bench", "pairs"], "'one' has no records: write --set one=FILE"),
    "its record": (
        ["bench", "nvfp4", "--device", "cpu", "-o", "there.mp4"],
        "there.mp4/nvfp4_cpu.json cannot be written",
    ),
    "its list": (["bench", "nvfp4", "--list"], "Leave one side out"),
    "packed": (["quantize", "none", "-o", "x"], "there is no model 'none'"),
    "its output": (["quantize", "pocket", "-o", "there.mp4"], "there.mp4 exists: name another"),
    "converted": (["convert", "none", "-o", "x", "--to", "diffusers"], "there is no model 'none'"),
    "its layout": (["convert", "pocket", "-o", "x", "--to", "comfy"], "did you mean 'comfyui'"),
    "its file": (["convert", "pocket", "-o", "x.pt", "--to", "gguf"], "ends in .pt, and GGUF"),
    "its rule": (["quantize", "pocket", "-o", "x", "--rule", "amax"], "did you mean 'amax_6'"),
    "option": (["generate", "a", "--sed", "3"], "No such option: --sed"),
    "number": (["generate", "a", "--seed", "x"], "--seed is a whole number, got 'x'"),
    "command": (["generte", "a"], "No such command 'generte'"),
}

CODE = """
import sys
from longlive_cli.main import app
try:
    app()
finally:
    heavy = {"torch", "numpy", "av", "pytorch_lightning", "transformers"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_by_name_or_file_loads_no_torch(case, tmp_path):
    arguments, message = REFUSED[case]
    (tmp_path / "there.mp4").write_text("a video")
    (tmp_path / "s.json").write_text('{"shots": ["a"]}')
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < MOST_SECONDS


def test_a_lazy_package_has_the_names_that_it_lists():
    import longlive_models

    for name in ("LongLivePipeline", "Shot", "Storyboard", "Stream", "Video"):
        assert name in dir(longlive_models)
        assert vars(sys.modules[getattr(longlive_models, name).__module__])[name]
    with pytest.raises(AttributeError, match="has no attribute 'Pipeline'"):
        longlive_models.Pipeline  # noqa: B018
