"""Training runs that take a second: the tiny presets, and a toy that learns a line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_models.stream import Video
from longlive_models.vae import WanVAE
from longlive_recipes import train_ar, train_vae
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.dataset import FramePool
from longlive_recipes.training.checkpoint_layout import averages_in
from longlive_recipes.training.fit import fit
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.schedule import TrainingSchedule

ROOT = Path(__file__).parents[2]


def quiet_run(output: Path, **changes) -> Run:
    """Logs every step, validates every second one, keeps a checkpoint of every step."""
    settings = {
        "accelerator": "cpu",
        "precision": "32-true",
        "log_every": 1,
        "validate_every": 2,
        "samples_every": 0,
        "checkpoint_minutes": 0.0,
        "progress_bar": False,
    }
    return Run(output=str(output), **(settings | changes))


def vae_config(output: Path, **changes) -> train_vae.TrainVAE:
    return replace(train_vae.vae_tiny(), run=quiet_run(output), **changes)


def write_tiny_vae(folder: Path) -> Path:
    """A VAE that was never trained, but whose latents are normalized."""
    torch.manual_seed(0)
    config = replace(train_vae.vae_tiny().vae, encoder_dim=4, decoder_dim=4)
    pool = FramePool.draw(ClipFormat(size=32), 2, 0, torch.device("cpu"), blocks=1)
    train_vae.write_vae(WanVAE(config).eval(), pool, folder)
    return folder


def ar_config(output: Path, vae: Path, **changes) -> train_ar.TrainAR:
    """A tenth of a second to encode its clips."""
    return replace(train_ar.ar_tiny(), vae=str(vae), run=quiet_run(output), **changes)


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A line through noisy points."""

    run: Run
    budget: TrainingSchedule = field(
        default_factory=lambda: TrainingSchedule(steps=8, warmup_steps=2)
    )
    seed: int = 3


class ToyModule(TrainingModule):
    """Uses both streams of random numbers; ``before`` is called with every step's number."""

    def __init__(self, config: Toy, before: Callable[[int], None] = lambda step: None) -> None:
        super().__init__(config.budget, Optimization(learning_rate=0.1), config.seed)
        self.line = nn.Linear(1, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)
        self.before = before
        self.rates: list[float] = []

    def training_step(self, step: int) -> dict[str, Tensor]:
        self.before(step)
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        x = torch.rand(16, 1, generator=self.choices(step))
        error = (self.line(x) - 2 * x - 1 - 0.1 * torch.randn(16, 1)).square().mean()
        return {"loss": error, "slope": self.line.weight.squeeze()}

    def validate(self) -> dict[str, float]:
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.manual_seed(0)  # must not be felt by the training
        return {"slope": float(self.line.weight), "offset": float(self.line.bias)}

    def samples(self) -> dict[str, Video]:
        frames = torch.full((7, 16, 16, 3), 40, dtype=torch.uint8)
        frames[..., 0] = int(200 * min(1.0, abs(float(self.line.weight))))
        return {"slope": Video(frames, 12.0)}


def train_toy(
    config: Toy, *, before: Callable[[int], None] = lambda step: None, resume: Path | None = None
) -> ToyModule:
    module = ToyModule(config, before)
    fit(module, config.run, config, resume=None if resume is None else str(resume))
    return module


class Stopped(Exception):
    """What ends a run in the middle of a step."""


def stop_at(step: int) -> Callable[[int], None]:
    def before(now: int) -> None:
        if now == step:
            raise Stopped

    return before


def kill_at(module: type[TrainingModule], step: int) -> type[TrainingModule]:
    """A module whose process is killed, without a chance to tidy up, when ``step`` begins."""

    class Killed(module):
        def training_step(self, now: int) -> dict[str, Tensor]:
            if now == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().training_step(now)

    return Killed


def run_until_killed(code: str) -> None:
    """Run ``code`` in a process of its own that is killed on the way."""
    preamble = "from tests.recipes.tiny_runs import *\n"
    done = subprocess.run(
        [sys.executable, "-c", preamble + code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def assert_same_run(one: Path, other: Path) -> None:
    """The last checkpoints, moving average and optimizer included, and the logs are the same."""
    for name in ("train.csv", "validation.csv"):
        assert (one / name).read_text() == (other / name).read_text()
    first, second = (load_last(folder) for folder in (one, other))
    for name in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(first[name], second[name], name)
    assert_equal(averages_in(first), averages_in(second), "averages")
    assert_equal(first.get("optimizers"), second.get("optimizers"), "optimizers")


def load_last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_equal(a, b, name: str) -> None:
    """Equal to the last bit, tensors within dicts and lists included."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_equal(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), name
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{name}.{place}")
    else:
        assert a == b, name


def column(path: Path, name: str) -> list[float]:
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    return [float(row[header.index(name)]) for row in rows]
