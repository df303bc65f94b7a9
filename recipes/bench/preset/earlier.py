"""Another source tree's block and decoding, timed in turns with this one's."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from longlive_models.block_steps import steps_of_block
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.preset import earlier_worker
from longlive_recipes.bench.preset.models import Preset

WORKER = Path(earlier_worker.__file__)
PACKAGES = ("longlive_core", "longlive_models")


def check_tree(folder: Path) -> None:
    """Raise ValueError unless a folder holds the packages of another commit."""
    for package in PACKAGES:
        if not (folder / package / "__init__.py").is_file():
            raise ValueError(
                f"--earlier {folder} has no package {package}: it is a folder with the packages of "
                f"another commit. Make one with `git archive COMMIT {' '.join(PACKAGES)} | tar -x "
                f"-C FOLDER`."
            )


class Earlier:
    """The process that works in another tree, in bf16 on a GPU, without its text encoder.

    Args:
        folder: the tree.
        preset: the sizes; weights are random.
        device: where it works.
    """

    def __init__(self, folder: Path, preset: Preset, device: torch.device) -> None:
        self.folder = folder.resolve()
        settings = preset.spec.settings
        told = {
            "device": str(device),
            "transformer": asdict(preset.spec.transformer),
            "vae": asdict(preset.spec.vae),
            "latent_size": preset.spec.latent_size,
            "window": settings.window,
            "steps": steps_of_block(settings.steps, settings.window),
            "shift": settings.shift,
        }
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), str(self.folder), json.dumps(told)],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fill(self) -> list[float]:
        """Fill its window; the seconds of each block."""
        answer = self._ask("fill")
        tree = Path(answer["tree"])
        require(tree.is_relative_to(self.folder), f"{tree} is not in {self.folder}")
        seconds: list[float] = answer["seconds"]
        return seconds

    def block(self) -> float:
        """Seconds of one more block."""
        return float(self._ask("block")["seconds"])

    def decode(self) -> float:
        """Seconds of decoding the last block to bytes on the host."""
        return float(self._ask("decode")["seconds"])

    def __enter__(self) -> "Earlier":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, order: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, and has no answer below
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        require(
            bool(line), f"the tree in {self.folder} ended at {order!r}: see above for its error"
        )
        answer: dict[str, Any] = json.loads(line)
        return answer
