"""Compares the memory that `longlive train --dry-run` predicts with what a GPU's steps take.

    python benchmarks/predicted_memory.py [WORD ...]

A line for each case, or for those whose names hold a word: predicted and measured peak in GiB, and
their ratio. Measured is `torch.cuda.max_memory_allocated` over the third step of a run, whose clips
are few: they are counted, and drawn before. Needs a GPU; about a minute and a half in all.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from longlive_recipes.configs.train_ar import TrainAR, ar_pocket
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.train_ar import TrainARModule, predict
from longlive_recipes.training.fit import fit
from longlive_recipes.training.schedule import Phase, TrainingSchedule

GIB = 1 << 30
MEASURED = 2
"""The step that is measured, counted from 0: the optimizer has its states by then."""


class Measured(TrainARModule):
    """Measures the peak of one step, from its beginning to that of the next."""

    peak = 0

    def training_step(self, step: int) -> dict[str, torch.Tensor]:
        torch.cuda.synchronize()
        if step == MEASURED:
            torch.cuda.reset_peak_memory_stats()
        elif step == MEASURED + 1:
            self.peak = torch.cuda.max_memory_allocated()
        return super().training_step(step)


def cases() -> dict[str, TrainAR]:
    """Configs by name: the pocket model, and four layers of the sizes of the 5B model."""
    pocket = replace(
        ar_pocket(),
        sets=(ClipSet(blocks=6, clips=32),),
        phases=(Phase(length=6, batch=24, until=1.0),),
        validation_clips=1,
        budget=TrainingSchedule(steps=MEASURED + 2, warmup_steps=1),
    )
    eager = replace(pocket.run, compile=False)
    layer = replace(pocket.model, dim=3072, ffn_dim=14336, num_heads=24, num_layers=4)
    wide = replace(pocket, model=layer, phases=(Phase(length=6, batch=6, until=1.0),), run=eager)
    return {
        "pocket": replace(pocket, run=eager),
        "pocket recomputed": replace(pocket, run=eager, checkpointing=True),
        "pocket compiled": pocket,
        "5B, 4 layers": wide,
        "5B, 4 layers recomputed": replace(wide, checkpointing=True),
        "5B, 4 layers recomputed but attention": replace(wide, checkpointing="attention"),
    }


def measure(config: TrainAR) -> int:
    """The peak of a step in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        run = replace(
            config.run,
            output=str(Path(folder) / "run"),
            samples_every=0,
            progress_bar=False,
            checkpoint_minutes=60.0,
        )
        config = replace(config, run=run)
        module = Measured(config)
        fit(module, config.run, config)
    return module.peak


def main(words: list[str]) -> None:
    """Print a line for each case."""
    for name, config in cases().items():
        if all(word in name for word in words):
            predicted, measured = predict(config).peak, measure(config)
            torch.cuda.empty_cache()
            print(
                f"{name:40} predicted {predicted / GIB:7.2f}  measured {measured / GIB:7.2f}  "
                f"ratio {predicted / measured:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
