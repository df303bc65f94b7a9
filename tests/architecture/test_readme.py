"""What the pages show can be run: Python blocks and `longlive` lines, as they are.

A Python block that saves a file runs twice in one folder, as a reader runs it, and no two blocks
write one file. Every `longlive` line is understood, as a dry run where there is one; what ends on
a CPU in a few minutes is run whole as well, page by page (`slow`). ``NOT_RUN`` has the others.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from tests.architecture.source import ROOT

ELSEWHERE = ("build", "shared")  # what `pip install .` leaves behind, and what is not ours
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not set(path.relative_to(ROOT).parts) & set(ELSEWHERE)
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    and path.name != "CHANGELOG.md"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CAN_BE_DRY = ("generate", "live", "serve", "train", "evaluate", "quantize", "convert", "bench")
NEEDING = (
    "--model",
    "--resume",
    "--replay",
    "--video",
    "--suite",
    "--lora",
)  # files that were made before
SHELLS = ("sh", "bash", "shell", "console")
COMMANDS = (*CAN_BE_DRY, "data", "recipes", "plan", "doctor", "--version")
SLOW = (  # these make whole videos, or compile
    "docs/your_own_model.md",
    "longlive_models/README.md",
    "docs/quick_start.md",
)
GPU = "trains for a quarter of an hour on a GPU"
MACHINES = "needs two machines; tests/recipes/test_several_nodes.py runs it with two processes each"
TORCH_S_OWN = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"  # it compiles
NOT_RUN = {  # how a line begins, and why it is only understood
    "live 'a red circle moves right on a navy background'$": "waits for what a person types",
    "serve": "answers until it is stopped; tests/recipes/serve starts it",
    "data (check|prepare) clips": "needs clips of one's own; tests/cli/test_data.py makes some",
    "train vae_(light_)?pocket": GPU,
    "train ar_pocket": GPU,
    "train ar_(lora|5b)": "needs clips of one's own; tests/recipes/test_ar_presets.py makes some",
    "generate .* --lora runs/ar_lora/adapter": "needs the adapters of that training",
    "train (pocket_chain|cm_pocket|dmd_pocket)": "distills for minutes on a GPU",
    "generate .* --model runs/ar_pocket_spins/model": "needs the model of that training",
    "generate .* --model LongLive-2.0-5B": "needs the published weights, and a GPU",
    "evaluate --set model=runs/ar_pocket_spins/model": "needs the model of that training",
    "generate .* --nodes 2": MACHINES,
    "evaluate --recipe pocket --set seen=64": "judges for a quarter of an hour on a CPU",
    "generate --nproc$|evaluate -o$": "an option that the text is about",
    "bench balanced_sp --device cuda": "needs four GPUs",
    "bench (training_step|nvfp4_curves|nvfp4_continued) --device cuda": "needs a GPU",
    "bench (pairs|startup) --set": "needs files of the reader's own, or another environment",
    "(generate|live|train|evaluate|quantize|convert|bench|recipes)$": "a word in the text",
}


def blocks(*languages: str) -> list[pytest.param]:
    found = []
    for page in PAGES:
        name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
        marks = [pytest.mark.slow] if name in SLOW and "python" in languages else []
        for match in FENCE.finditer(text):
            if match.group(1) in languages:
                place = f"{name}:{text[: match.start()].count(chr(10)) + 1}"
                found.append(pytest.param(match.group(2), id=place, marks=marks))
    return found


def calls(code: str) -> list[list[str]]:
    """Every `longlive ...` call of a shell block, as words; variables before it are left out."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line.removeprefix("$ ")):
            words = [word.strip("$()") for word in shlex.split(part, comments=True)]
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words[:1] == ["torchrun"]:
                words = words[words.index("longlive") :]
            if words[:1] == ["longlive"]:
                found.append(words[1:])
    return found


def commands() -> list[pytest.param]:
    return [
        pytest.param(words, id=f"{block.id} {' '.join(words)[:60]}")
        for block in blocks(*SHELLS)
        for words in calls(block.values[0])
    ]


def lines(page: Path) -> list[str]:
    """Every line of a page that calls `longlive`, in order: in shell blocks, and within the text.

    What comes before the call in its line, an installation or a variable, is left out.
    """
    text = page.read_text(encoding="utf-8")
    found: list[tuple[int, str]] = []
    for match in FENCE.finditer(text):
        if match.group(1) in SHELLS:
            code = match.group(2).replace("\\\n", " ")
            found += [(match.start(), line) for line in code.splitlines() if calls(line)]
    outside = FENCE.sub(lambda match: " " * len(match.group()), text)
    spans = re.finditer(r"`(longlive [^`]+)`", outside)
    found += [(match.start(), " ".join(match.group(1).split())) for match in spans]
    return [re.sub(r"^.*&& (?=longlive)", "", line) for _, line in sorted(found, key=first)]


def first(found: tuple[int, str]) -> int:
    return found[0]


def why_not(line: str) -> str | None:
    """Why a line is not run; None if it is."""
    [words, *_] = calls(line)
    if "--dry-run" in words:
        return None
    written = shlex.join(words)
    return next((why for start, why in NOT_RUN.items() if re.match(start, written)), None)


def runs() -> list[pytest.param]:
    """The pages with lines that are run, and those lines."""
    found = [(page, [line for line in lines(page) if why_not(line) is None]) for page in PAGES]
    return [
        pytest.param(wanted, id=str(page.relative_to(ROOT))) for page, wanted in found if wanted
    ]


def run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_page_is_read():
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "recipes/README.md", "longlive_core/nvfp4/LAYERS.md"} <= names
    assert len(blocks("python")) >= 11 and len(commands()) >= 20


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run_and_run_again(code, tmp_path):
    for _ in range(2 if "save" in code else 1):
        run(["-W", "error::DeprecationWarning", "-W", TORCH_S_OWN, "-c", code], tmp_path)


@pytest.mark.parametrize("words", commands())
def test_commands_are_understood(words, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # a reader stands in the checkout
    monkeypatch.chdir(tmp_path)
    assert words[0] in COMMANDS, f"longlive has no command {words[0]}"
    if words[0] in CAN_BE_DRY:
        words = [*words, "--dry-run"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    if words[0] == "data" or "--data" in words:  # clips are the reader's own
        needs = ("there is no folder 'clips'", "cache is no cache of clips")
        assert any(need in done.stderr for need in needs), done.output
    elif "--plot" in words:  # runs, too
        assert "is no folder: a run's folder is what run.output names" in done.stderr
    elif any(word in words for word in NEEDING) or "model=" in " ".join(words):
        needs = ("there is no model", "--resume", "is no model", "there is no record")
        needs += ("which is to be read as the clip", "there is no video", "adapter")
        assert done.exit_code == 0 or any(need in done.stderr for need in needs), done.output
    else:
        assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize("wanted", runs())
def test_commands_run(wanted, tmp_path):
    """One after another in one folder: a line may need what an earlier one wrote."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in wanted:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path,
            env={**os.environ, "PATH": programs},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_what_is_not_run_is_shown_somewhere():
    """No reason outlives its line, and lines that a page writes within its text are read."""
    shown = [line for page in PAGES for line in lines(page)]
    for start in NOT_RUN:
        assert any(re.match(start, shlex.join(calls(line)[0])) for line in shown), start
    assert "longlive generate --resume star.snapshot" in shown
    assert sum(why_not(line) is None for line in shown) >= 12


def test_pages_and_examples_write_files_of_their_own():
    """Two places that write one name would meet it, or replace it, in a reader's folder."""
    written: dict[str, str] = {}
    for block in (*blocks("python"), *blocks("sh")):
        code = block.values[0]
        names = re.findall(r"-o (\S+)|--snapshot (\S+)|(?:save|snapshot)\(\"([^\"]+)\"", code)
        for name in {"".join(found) for found in names}:
            assert name not in written, f"{block.id} and {written.get(name)} write {name}"
            written[name] = block.id
    assert len(written) >= 8


@pytest.mark.parametrize(
    "script", sorted((ROOT / "examples").glob("*.py")), ids=lambda script: script.name
)
def test_examples_are_short(script):  # tests/examples runs each of them, at a small size
    assert len(script.read_text().splitlines()) < 60
