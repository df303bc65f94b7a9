"""What the pages show can be run: Python blocks as they are, `longlive` lines as dry runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

PAGES = [path for name in ("README.md", "CONTRIBUTING.md") if (path := ROOT / name).is_file()]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CAN_BE_DRY = ("generate", "live", "train", "evaluate")
COMMANDS = (*CAN_BE_DRY, "quantize", "recipes", "doctor", "--version")


def blocks(*languages: str) -> list[pytest.param]:
    return [
        pytest.param(code, id=f"{page.name}:{page.read_text()[: match.start()].count(chr(10)) + 1}")
        for page in PAGES
        for match in FENCE.finditer(page.read_text())
        for code in [match.group(2)]
        if match.group(1) in languages
    ]


def commands() -> list[pytest.param]:
    """Every `longlive ...` call of the shell blocks, as words."""
    found = []
    for block in blocks("sh", "bash", "shell", "console"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                if words[:1] == ["longlive"]:
                    found.append(pytest.param(words[1:], id=f"{block.id} {' '.join(words)[:60]}"))
    return found


def run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, tmp_path):
    run(["-c", code], tmp_path)


@pytest.mark.parametrize("words", commands())
def test_commands_are_understood(words, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # a reader stands in the checkout
    assert words[0] in COMMANDS, f"longlive has no command {words[0]}"
    if words[0] in CAN_BE_DRY:
        words = [*words, "--dry-run"]
    run(["-c", "from longlive_cli.main import app; app()", *words], tmp_path)


@pytest.mark.parametrize(
    "script", sorted((ROOT / "examples").glob("*.py")), ids=lambda script: script.name
)
def test_examples_are_short(script):  # tests/examples runs each of them, at a small size
    assert len(script.read_text().splitlines()) < 60
