"""Compares the memory that `longlive train --dry-run` predicts with what steps take.

    python benchmarks/predicted_memory.py -o benchmarks/results        # one H200, two minutes
    python benchmarks/predicted_memory.py --tiny                       # a CPU, to see that it runs

A row for each case, or for those whose names hold a word that is given: predicted and measured peak
in GiB, and their ratio. Measured is `torch.cuda.max_memory_allocated` over the third step of a run;
the pocket's clips are few, and those of the 5B are noise: its own VAE and text encoder are not
needed. With `-o FOLDER` rows are written as they are done. A case that fails is a row, too, and
after `--seconds` no further one is begun: what compiles for long comes last.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from longlive_models.vae import WAN22_VAE
from longlive_recipes import distill_vae, train_ar, train_vae
from longlive_recipes.bench.record import stamped, table, write
from longlive_recipes.configs.distill_vae import vae_light_pocket, vae_light_tiny
from longlive_recipes.configs.train_ar import TrainAR, ar_5b, ar_pocket, ar_tiny
from longlive_recipes.configs.train_vae import vae_pocket, vae_tiny
from longlive_recipes.data.text_features import PromptTable
from longlive_recipes.moving_shapes.dataset import LatentClips
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.training.fit import fit
from longlive_recipes.training.memory import MemoryPlan
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.profiled_memory import ProfiledPeak
from longlive_recipes.training.schedule import Phase, TrainingSchedule

GIB = 1 << 30
MEASURED = 2
"""The step that is measured, counted from 0: the optimizer has its states by then."""

BUDGET = TrainingSchedule(steps=MEASURED + 3, warmup_steps=1)
ABOUT = (
    "The peak of tensors in a training step, as `longlive train --dry-run` predicts it and as it "
    "is: the third step of a run, from its beginning to that of the next."
)


class Enough(Exception):
    """The step was measured."""


class Meter(Protocol):
    """Measures the most bytes of tensors between two moments."""

    def start(self) -> None: ...

    def stop(self) -> int: ...


class OfGPU:
    """What torch's allocator of the GPU counts, all that lasts included."""

    def start(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def stop(self) -> int:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


def measured(module: type[TrainingModule], meter: Meter) -> type[TrainingModule]:
    """A module whose run ends once a step was measured; ``peak`` has its bytes then."""

    class Measured(module):  # type: ignore[misc, valid-type]
        peak = 0

        def training_step(self, step: int) -> dict[str, torch.Tensor]:
            if step == MEASURED:
                meter.start()
            elif step == MEASURED + 1:
                type(self).peak = meter.stop()
                raise Enough
            found: dict[str, torch.Tensor] = super().training_step(step)
            return found

    return Measured


class OnNoise(train_ar.TrainARModule):
    """AR training on latents and features of prompts that are noise, two clips of them."""

    def configure_model(self) -> None:
        super().configure_model()
        text = self.config.text
        rows = torch.randn(text.text_len, text.dim, dtype=torch.float32, device="cpu").bfloat16()
        if isinstance(self.text, PromptTable):
            self.text = PromptTable({"": rows, "noise": rows}, text.text_len, text.dim)

    def on_fit_start(self) -> None:
        config = self.config
        stride = WAN22_VAE.spatial_stride
        [blocks] = config.lengths
        frames = blocks * config.model.frames_per_block
        how = config.generation
        size = (config.model.in_channels, frames, how.height // stride, how.width // stride)
        latents = torch.randn(2, *size, dtype=torch.bfloat16, device=self.device)
        cuts = torch.zeros(2, blocks, dtype=torch.bool, device="cpu")
        clips = LatentClips(latents, (("noise",) * blocks,) * 2, cuts)
        self.sets, self.fresh = {blocks: self.tokenize(clips)}, {}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A config, what predicts its memory, and what trains it."""

    config: Any
    predict: Callable[[Any], MemoryPlan]
    module: type[TrainingModule]


def cases() -> dict[str, Case]:
    """By name: the pocket, four layers of the 5B at 704x1280, the pocket's VAE; compiled last."""
    pocket = replace(
        ar_pocket(),
        sets=(ClipSet(blocks=6, clips=32),),
        phases=(Phase(length=6, batch=24, until=1.0),),
        validation_clips=1,
    )
    eager = replace(pocket, run=replace(pocket.run, compile=False))
    base = ar_5b()
    four = replace(
        base,
        model=replace(base.model, num_layers=4),
        phases=(Phase(length=12, batch=1, until=1.0),),
        parallel=Parallel(),
        start_from=None,
        validation_clips=1,
    )
    short = replace(four, phases=(Phase(length=3, batch=1, until=1.0),), checkpointing=False)
    vae = vae_pocket()
    vae = replace(vae, pool_clips=64, validation_clips=1, phases=vae.phases[-1:])
    light = replace(vae_light_pocket(), clips=64, validation_clips=1)
    found = {
        "pocket": _ar(eager),
        "pocket, recomputed": _ar(replace(eager, checkpointing=True)),
        "5B, 4 layers, 96 latents, recomputed but attention": _noise(four),
        "5B, 4 layers, 96 latents, recomputed": _noise(replace(four, checkpointing=True)),
        "5B, 4 layers, 24 latents": _noise(short),
        "vae": _vae(replace(vae, run=replace(vae.run, compile=False))),
        "light decoder": _light(light),
        "pocket, compiled": _ar(pocket),
        "vae, compiled": _vae(vae),
    }
    return found


def tiny_cases(folder: Path) -> dict[str, Case]:
    """The same kinds at sizes for a CPU; a VAE that was never trained is written to a folder."""
    vae = replace(vae_tiny(), phases=vae_tiny().phases[-1:])
    made = train_vae.TrainVAEModule(vae)
    made.on_fit_start()
    train_vae.write_vae(made.vae.eval(), made.fresh, folder / "vae")
    tiny = ar_tiny()
    [few, *_] = tiny.sets
    phases = (Phase(length=few.blocks, batch=4, until=1.0),)
    pocket = replace(tiny, vae=str(folder / "vae"), sets=(few,), phases=phases)
    base = ar_5b()
    four = replace(
        base,
        model=replace(base.model, dim=64, ffn_dim=128, num_heads=2, num_layers=4, text_dim=32),
        text=replace(base.text, dim=32, text_len=8),
        phases=(Phase(length=2, batch=1, until=1.0),),
        world=replace(base.world, size=64),
        width=64,
        parallel=Parallel(),
        start_from=None,
        validation_clips=1,
        run=replace(base.run, accelerator="cpu"),
    )
    return {
        "pocket": _ar(pocket),
        "5B": _noise(four),
        "5B, recomputed": _noise(replace(four, checkpointing=True)),
        "vae": _vae(replace(vae, validation_clips=1)),
        "light decoder": _light(replace(vae_light_tiny(), vae=str(folder / "vae"), batch=4)),
    }


def _ar(config: TrainAR) -> Case:
    return Case(config=config, predict=train_ar.predict, module=train_ar.TrainARModule)


def _noise(config: TrainAR) -> Case:
    return Case(config=config, predict=train_ar.predict, module=OnNoise)


def _vae(config: train_vae.TrainVAE) -> Case:
    return Case(config=config, predict=train_vae.predict, module=train_vae.TrainVAEModule)


def _light(config: distill_vae.DistillVAE) -> Case:
    return Case(config=config, predict=distill_vae.predict, module=distill_vae.DistillVAEModule)


def row(case: Case, *, gpu: bool) -> dict[str, float | str]:
    """Predicted and measured GiB of a case; on a CPU, of what a step takes beside what lasts."""
    plan = case.predict(case.config)
    predicted = plan.peak if gpu else plan.peak - sum(plan.lasting.values())
    began = time.perf_counter()
    module = measured(case.module, OfGPU() if gpu else ProfiledPeak())
    with tempfile.TemporaryDirectory() as folder:
        run = replace(
            case.config.run,
            output=str(Path(folder) / "run"),
            samples_every=0,
            validate_every=1000,
            progress_bar=False,
            checkpoint_minutes=60.0,
        )
        config = replace(case.config, run=run, budget=BUDGET)
        with suppress(Enough):
            fit(module(config), config.run, config)
    found = module.peak
    return {
        "predicted_gib": predicted / GIB,
        "measured_gib": found / GIB,
        "ratio": predicted / found,
        "seconds": time.perf_counter() - began,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float | str]]:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description="Predicted memory of training steps, and theirs.")
    parser.add_argument("words", nargs="*", help="of cases; none: all of them")
    parser.add_argument("-o", "--output", type=Path, help="a folder for the record and its table")
    parser.add_argument("--seconds", type=float, default=130.0, help="begin no case after these")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU")
    chosen = parser.parse_args(arguments)
    gpu = not chosen.tiny
    device = torch.device("cuda" if gpu else "cpu")
    rows: dict[str, dict[str, float | str]] = {}
    text, began = "", time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        known = cases() if gpu else tiny_cases(Path(folder))
        picked = {
            name: case for name, case in known.items() if all(word in name for word in chosen.words)
        }
        for name, case in picked.items():
            if rows and time.perf_counter() - began > chosen.seconds:
                break
            print(f"{name} ...", flush=True)
            try:
                rows[name] = row(case, gpu=gpu)
            except (RuntimeError, ValueError, AssertionError, TypeError) as error:
                rows[name] = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
            torch.compiler.reset()
            gc.collect()
            if gpu:
                torch.cuda.empty_cache()
            record = _record(chosen, device, rows, len(picked))
            text = table(record)
            if chosen.output is not None:
                write(record, text, chosen.output, f"predicted_memory_{device.type}")
    print(text)
    return rows


def _record(
    chosen: argparse.Namespace,
    device: torch.device,
    rows: dict[str, dict[str, float | str]],
    wanted: int,
) -> dict[str, Any]:
    """What is known after some of the cases that are wanted."""
    missing = {"unfinished": f"{len(rows)} of {wanted} cases"} if len(rows) < wanted else {}
    found = {
        "benchmark": "predicted_memory",
        "about": ABOUT,
        "rows": rows,
        "checked": "a prediction is meant to be within 0.9 and 1.1 of what is measured",
        **missing,
    }
    told = {"words": chosen.words, "tiny": chosen.tiny}
    command = " ".join(["python benchmarks/predicted_memory.py", *chosen.words])
    return stamped(found, told, device, command)


if __name__ == "__main__":
    sys.exit(any("failed" in one for one in main().values()))
