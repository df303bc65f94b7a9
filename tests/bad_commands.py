"""Command lines that cannot be: of every command, what is asked for, where it goes, and how.

    python -m tests.bad_commands [WORD ...]

Runs them in this process, one after another, in a folder of odd files. Each has to end with a
status of its own and one sentence on standard error, soon, and leave the folder as it was. Prints a
line for each that did not, and how many there were. With words, only lines that have them all.
"""

import json
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from typer.testing import CliRunner

from longlive_cli.main import app
from tests.models.tiny_pipeline import write_tiny_folder

SECONDS = 10.0
"""Of one core, that a refusal may take; the first one imports torch."""

GIANT = "9" * 5000
NO_SIZE = ("0", "-1", "x", "1.5", "nan", "", GIANT)
NO_RATE = ("0", "-1", "x", "nan", "inf", "-inf", "")

GENERATE = {
    "--steps": (*NO_SIZE, "1e9", "1000000000"),
    "--seconds": (*NO_RATE, "1e18", "1e300", "1e400"),
    "--guidance": ("-1", "x", "nan", "inf", "1e308", ""),
    "--seed": ("-1", "x", "1.5", "", GIANT, "1e3"),
    "--count": (*NO_SIZE, "10001"),
    "--fps": (*NO_RATE, "1e300"),
    "--crf": ("-1", "52", "x", "1.5", "", GIANT),
    "--nproc": NO_SIZE,
    "--nodes": NO_SIZE,
    "--device": ("", "cpu:7", "cpu:-1", "gpu", "cuda:99", "tpu", "mps:x", "cpu cpu"),
    "--weights": ("", "fp5", "BF16", "int4", "none"),
    "--kv-cache": ("", "fp5", "BF16", "int3", "none"),
    "--model": ("none", "./none", "~nobody/x", "folder", "there.mp4", "", "x" * 5000, "a\x1b[1mb"),
    "--image": ("none.png", "there.mp4", "empty.txt", "folder", "http://h/a.png", "", "loop"),
    "--config": ("none.yaml", "deep.json", "null.json", "twice.yaml", "folder", "utf16.txt", ""),
    "--resume": ("none", "there.mp4", "empty.txt", "folder", "null.json", ""),
    "--replay": ("none.json", "s.json", "null.json", "deep.json", "there.mp4", "folder", ""),
    "--prompts": ("none.txt", "empty.txt", "null.json", "deep.json", "twice.jsonl", "slash.jsonl")
    + ("utf16.txt", "there.mp4", "folder", "loop", "nan.json", "long.json", ""),
    "--storyboard": ("none.json", "empty.txt", "null.json", "deep.json", "twice.jsonl", "folder"),
    "--output": ("x.webm", "x.mov", "there.mp4", "there.mp4/x.mp4", "/proc/x.mp4")
    + ("x" * 300 + ".mp4", "a\0b.mp4", "dangling.mp4", "recorded.gif", "loop/x.mp4"),
    "--snapshot": ("there.mp4", "x.mp4", "folder", "there.mp4/x", "s.json"),
    "--set": ("steps", "=3", "stesp=3", "steps=x", "steps.x=1", ".=1", "seconds=nan", "crf=99")
    + ("weights=fp5", "kv_cache=4", "model=none", "strict=maybe", "lane=stream", "lane=x")
    + ("attention=fa9", "attention=fa3", "linear=zzz", "device=cpu:7", "fps=0", "guidance=-1"),
}
"""Of options with values, values that cannot be."""

WITHOUT_PROMPT = ("--resume", "--replay", "--prompts", "--storyboard")

GENERATE_LINES = (
    "generate",
    "generate ''",
    "generate ' '",
    "generate a b",
    "generate a --prompts s.json",
    "generate --prompts s.json --storyboard s.json",
    "generate a --snapshot-every 2",
    "generate a --snapshot s --snapshot-every 0",
    "generate a --seed 1 --resume s",
    "generate --replay s.json --steps 3",
    "generate --replay s.json --resume s",
    "generate a --fork b",
    "generate a --only-new",
    "generate --resume there.mp4 --fork /quit",
    "generate --prompts s.json -o s.mp4 --overwrite",
    "generate a --image there.mp4 -o there.mp4 --overwrite",
    "generate --prompts s.json --one-video-a-line",
    "generate a --zzz",
    "generate a --steps",
    "generate a --nproc 2 --snapshot x.snapshot",
    "generte a",
    "--zzz",
    "--zzz generate a",
)

LIVE = {
    "--seconds": ("0", "-1", "nan", "x", "-inf"),
    "--steps": NO_SIZE,
    "--guidance": ("-1", "nan", "1e308"),
    "--seed": ("-1", "x"),
    "--device": ("cpu:7", "gpu"),
    "--weights": ("fp5", ""),
    "--model": ("none", "folder", "there.mp4"),
    "--output": ("x.webm", "there.mp4", "there.mp4/x.mp4", "recorded.gif"),
    "--config": ("none.yaml", "deep.json", "twice.yaml"),
    "--set": ("stesp=3", "seconds=nan", "lane=x"),
    "--resume": ("none", "there.mp4"),
}

TRAIN = {
    "--set": (
        *(f"optimization.learning_rate={value}" for value in ("nan", "-1", "x", "inf", "")),
        *(f"optimization.betas={value}" for value in ("2,2", "0.9", "nan,0.9", "x", "-1,0.9")),
        *(f"optimization.{name}=-1" for name in ("ema_decay", "weight_decay", "max_grad_norm")),
        *(f"run.{name}=0" for name in ("log_every", "validate_every")),
        *(f"run.{name}=foo" for name in ("precision", "accelerator", "compile", "benchmark")),
        *(f"budget.{name}=-1" for name in ("steps", "minutes", "warmup_steps", "final_rate")),
        *(f"budget.{name}=nan" for name in ("steps", "minutes", "warmup_steps", "final_rate")),
        *(f"budget.{name}={GIANT}" for name in ("steps", "warmup_steps")),
        *(f"sets.{place}" for place in ("0.clips=0", "0.clips=x", "9.clips=1", "x.clips=1")),
        *(f"phases.0.{part}" for part in ("length=0", "batch=0", "until=nan", "lenth=3")),
        *(f"{name}=1.5" for name in ("prompt_dropout", "word_dropout", "seed")),
        *(f"{name}=-1" for name in ("prompt_dropout", "word_dropout", "seed", "shift", "guidance")),
        *(f"window.{name}=-1" for name in ("pages", "sink", "shot_sink")),
        *(f"model.{name}" for name in ("num_layers=0", "num_layers=10000000", "dim=7", "eps=nan")),
        *(f"text.{name}" for name in ("vocab=a,a", "dim=0", "text_len=1000000000")),
        *(f"parallel.{name}" for name in ("data=0", "sequence=-1", "nodes=0", "data=2")),
        *(f"world.{name}=0" for name in ("size", "fps", "block_frames")),
        *(f"vae={name}" for name in ("none", "there.mp4", "folder")),
        *("start_from=nowhere", "sample_seconds=nan", "validation_clips=-1", "checkpointing=maybe"),
        *("run.checkpoint_minutes=nan", "run.accelerator=cuda", "zzz=1", "run=3", "=", "seed"),
    ),
    "--config": ("none.yaml", "deep.json", "null.json", "twice.yaml", "folder", "s.json"),
    "--resume": ("none.ckpt", "there.mp4", "folder", "empty.txt", "null.json"),
}

OTHER_LINES = (
    "train",
    "train ''",
    "train ar_tni",
    "train pocket",
    "train ar_tiny --export",
    "train ar_tiny --zzz",
    "train ar_tiny more",
    "evaluate none.mp4",
    "evaluate there.mp4",
    "evaluate empty.txt",
    "evaluate folder",
    "evaluate s.json --fps 0",
    "evaluate there.mp4 --fps nan",
    "evaluate there.mp4 --fps x",
    "evaluate there.mp4 -o there.mp4",
    "evaluate --recipe pockt",
    "evaluate --set stps=1",
    "evaluate --set steps=0",
    "evaluate --set model=none",
    "evaluate --config none.yaml",
    "evaluate --config deep.json",
    "evaluate --set model=none -o there.mp4",
    "quantize",
    "quantize none -o x",
    "quantize model",
    "quantize model -o there.mp4",
    "quantize model -o model",
    "quantize model -o x --rule amax",
    "quantize model -o x --rule ''",
    "quantize model -o x --bound 0",
    "quantize model -o x --bound -1",
    "quantize model -o x --bound x",
    f"quantize model -o x --bound {GIANT}",
    "quantize model -o x --keep '*'",
    "quantize model -o x --keep zzz",
    "quantize model -o there.mp4/x",
    "quantize folder -o x",
    "quantize there.mp4 -o x",
    "quantize model -o x --zzz",
    "bench zzz",
    "bench ''",
    "bench nvfp4 zzz",
    "bench nvfp4 --list",
    "bench nvfp4 --zzz",
    "bench nvfp4 --repeats 0",
    "bench nvfp4 --repeats x",
    "bench nvfp4 --device gpu",
    "bench nvfp4 --set pages=0",
    "bench nvfp4 --set zzz=1",
    "bench nvfp4 -o there.mp4",
    "bench generation --seconds nan",
    "bench generation --steps 0",
    "bench generation --guidance -1",
    "bench generation --model none",
    "bench generation --kv-cache fp5",
    "bench vae_decode --config none.yaml",
    "bench balanced_sp --device tpu",
    "bench balanced_sp --set ranks=",
    "bench balanced_sp --set ranks=99",
    "bench balanced_sp --set heads=7 --set head_dim=3",
    "bench balanced_sp --set latent_frames=12",
    "bench balanced_sp --seconds 3",
    "bench pairs",
    "bench pairs --set one=s.json --set other=s.json",
    "bench pairs --set one=folder --set other=none.json",
    "bench startup",
    "bench startup --set against=none",
    "bench startup --set against=there.mp4",
    "bench startup --set against=/bin/false",
    "data prepare",
    "data prepare none -o x",
    "data prepare folder -o x",
    "data prepare there.mp4 -o x",
    "data prepare folder -o there.mp4",
    "data check folder",
    "data check none --size 12",
    "data check none --fps nan",
    "data check none --blocks 0",
    "data check none --sheet there.mp4",
    "data zzz",
    "train ar_tiny --data none",
    "train vae_tiny --data folder",
    "doctor --head-dim 0",
    "doctor --head-dim -1",
    "doctor --head-dim x",
    "doctor --head-dim 1.5",
    "doctor --zzz",
    "doctor more",
    "recipes show",
    "recipes show zzz",
    "recipes show ''",
    "recipes list more",
    "recipes zzz",
)


def lines() -> Iterator[list[str]]:
    """Every command line."""
    for option, values in GENERATE.items():
        for value in values:
            prompt = [] if option in WITHOUT_PROMPT else ["a red circle"]
            yield ["generate", *prompt, option, value, *_model(option, value)]
    for line in (*GENERATE_LINES, *OTHER_LINES):
        yield [*shlex.split(line), *(_model("", "") if line.startswith("generate") else ())]
    for option, values in LIVE.items():
        for value in values:
            prompt = [] if option == "--resume" else ["a red circle"]
            yield ["live", *prompt, option, value, *_model(option, value)]
    for option, values in TRAIN.items():
        for value in values:
            yield ["train", "ar_tiny", option, value, "--set", "run.output=new"]


def _model(option: str, value: str) -> tuple[str, ...]:
    """The small model, where none is named; a past has one of its own."""
    named = option in ("--model", "--resume", "--replay") or value.startswith("model=")
    return () if named else ("--model", "model")


def furnish() -> None:
    """Put odd files into the working folder, and a model."""
    write_tiny_folder(Path("model"))
    Path("there.mp4").write_text("a video")
    Path("recorded.json").write_text("{}")
    Path("empty.txt").write_text("")
    Path("folder").mkdir()
    Path("folder.mp4").mkdir()
    Path("folder.mp4", "kept.txt").write_text("kept")
    Path("s.json").write_text('{"shots": ["a red circle"]}')
    Path("null.json").write_text("null")
    Path("deep.json").write_text("[" * 10_000)
    Path("nan.json").write_text('{"shots": [{"prompt": "a", "seconds": NaN}]}')
    Path("long.json").write_text('{"shots": [{"prompt": "a", "seconds": 1e300}]}')
    Path("twice.yaml").write_text("steps: 1\nsteps: 2\n")
    Path("twice.jsonl").write_text('{"id": "a", "prompt": "x"}\n' * 2)
    Path("slash.jsonl").write_text('{"id": "../a", "prompt": "x"}\n')
    Path("utf16.txt").write_text("a red circle", encoding="utf-16")
    Path("loop").symlink_to("loop")
    Path("dangling.mp4").symlink_to("/nowhere/x.mp4")


def state() -> dict[str, object]:
    """What is in the working folder."""
    found: dict[str, object] = {}
    for path in sorted(Path().rglob("*")):
        held: object = path.is_dir()
        if path.is_symlink():
            held = os.readlink(path)
        elif path.is_file():
            held = (path.stat().st_size, path.stat().st_mtime_ns)
        found[str(path)] = held
    return found


class TooLong(BaseException):
    """A command took too long; no boundary catches this."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooLong


def verdict(line: list[str], before: dict[str, object]) -> str | None:
    """What is wrong with how a command ended; None if nothing is."""
    began = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
    try:
        done = CliRunner().invoke(app, line, input="")
    except TooLong:
        return "never ends"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if isinstance(done.exception, TooLong):
        return "never ends"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"raised {done.exception!r:.200}"
    said = done.stderr.rstrip("\n")
    wrongs = {
        "changed files": state() != before,
        f"took {time.process_time() - began:.1f} s": time.process_time() - began > SECONDS,
        f"status {done.exit_code}": done.exit_code not in (1, 2),
        f"printed {done.stdout!r:.100}": bool(done.stdout),
        f"said {said!r:.300}": not _is_a_sentence(said),
    }
    return ", ".join(what for what, is_so in wrongs.items() if is_so) or None


def _is_a_sentence(said: str) -> bool:
    return (
        said.startswith("longlive: ")
        and 40 < len(said) < 1500
        and said.isprintable()  # in one line, and no escape codes
        and said.endswith((".", ")"))
        and not any(word in said for word in ("Traceback", "internal error", "Error:"))
    )


def main() -> int:
    """Try everything; the number of command lines that went wrong."""
    signal.signal(signal.SIGALRM, _stop)
    warnings.simplefilter("ignore")
    wrong, count = [], 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        furnish()
        before = state()
        for line in lines():
            shown = " ".join(json.dumps(word) if len(word) < 60 else "GIANT" for word in line)
            if not all(word in shown for word in sys.argv[1:]):
                continue
            count += 1
            if (said := verdict(line, before)) is not None:
                wrong.append(f"{shown}: {said}")
                before = state()
        os.chdir("/")
    print("\n".join([*wrong, f"{count} command lines"]))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(), 100))
