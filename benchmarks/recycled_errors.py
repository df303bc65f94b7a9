"""What recycled errors cost a training step, beside another commit's in the same run.

    git archive COMMIT longlive_core longlive_models recipes | tar -x -C EARLIER
    ln -s recipes EARLIER/longlive_recipes
    python benchmarks/recycled_errors.py EARLIER

What is added to six steps, and what the banks hold after them, has to be the same to the bit. Each
tree is measured in turns, three times, at the sizes of `ar_pocket_long` (24 clips of six blocks,
errors in every past): milliseconds of the CPU that choosing and staging errors takes, and keeping
them. On a GPU also those of a whole step, without recycled errors and with them as the preset has
them. A CPU takes a minute; a GPU four, most of them compiling.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

CLIPS, CHANNELS, FRAMES, SIDE = 24, 24, 48, 16
ROOT = Path(__file__).parents[1]
FIRST, LAST = 20, 60
"""The steps between which a run on a GPU is timed, counted from 0."""


def host() -> dict[str, Any]:
    """Milliseconds of the CPU for each half, and a digest of all that was added and kept."""
    import torch

    from longlive_models.objectives.error_recycling import ErrorRecycler, ErrorRecycling

    torch.set_num_threads(1)
    config = ErrorRecycling(context=1.0, start=0.0, noise=0.0, clean=0.0)
    recycler = ErrorRecycler(config, frames_per_block=8)
    generator, digest, times = torch.Generator().manual_seed(0), hashlib.sha256(), []
    shape = (CLIPS, CHANNELS, FRAMES, SIDE, SIDE)
    none = torch.zeros(shape)
    for step in range(6):
        index = torch.randint(0, 1000, (CLIPS, FRAMES // 8), generator=generator)
        index = index.repeat_interleave(8, 1)
        errors = torch.randn(2, *shape, generator=generator).bfloat16()
        given = recycler.corrupt(none, none, index, step=step, chance=random.Random(step))
        digest.update(given.context.numpy().tobytes())
        began = time.process_time()
        _stage(recycler, none, index, step)
        staged = time.process_time()
        recycler.learn(*errors, index, clean=False, chance=random.Random(-step))
        times.append((staged - began, time.process_time() - staged))
    for error in recycler.latent_errors.held():
        digest.update(error.float().numpy().tobytes())
    return {
        "adding": 1e3 * min(first for first, _ in times[2:]),
        "keeping": 1e3 * min(second for _, second in times[2:]),
        "digest": digest.hexdigest(),
    }


def _stage(recycler: Any, none: Any, index: Any, step: int) -> None:
    """What the CPU does for a batch on a GPU, up to the copy."""
    import torch

    chance = random.Random(step)
    if not hasattr(recycler, "choose"):  # an earlier tree puts all of it together here
        recycler.corrupt(torch.zeros_like(none), none, index, step=step, chance=chance)
        return
    from longlive_models.objectives.chosen_errors import put_together

    grid = recycler.choose(index, step=step, chance=chance).context
    if grid is not None:
        put_together(grid, torch.device("meta"))


def gpu_step(*, recycles: bool) -> float:
    """Milliseconds of a step of the longer stage, compiled, on clips of six blocks."""
    import torch

    from longlive_recipes.configs.ar_options import NO_ERRORS
    from longlive_recipes.configs.train_ar import ar_pocket, ar_pocket_long
    from longlive_recipes.moving_shapes.latent_cache import ClipSet
    from longlive_recipes.train_ar import TrainARModule
    from longlive_recipes.training.fit import fit
    from longlive_recipes.training.schedule import Phase, TrainingSchedule

    class Timed(TrainARModule):
        began = ended = 0.0

        def training_step(self, step: int) -> dict[str, torch.Tensor]:
            if step in (FIRST, LAST):
                torch.cuda.synchronize()
                self.began, self.ended = self.ended, time.perf_counter()
            return super().training_step(step)

    with tempfile.TemporaryDirectory() as folder:
        long = ar_pocket_long()
        config = replace(
            ar_pocket(),
            sets=(ClipSet(blocks=6, clips=32),),
            phases=(Phase(length=6, batch=CLIPS, until=1.0),),
            validation_clips=1,
            shift=long.shift,
            optimization=long.optimization,
            recycling=long.recycling if recycles else NO_ERRORS,
            budget=TrainingSchedule(steps=LAST + 1, warmup_steps=1),
        )
        run = replace(
            config.run,
            output=str(Path(folder) / "run"),
            samples_every=0,
            progress_bar=False,
            checkpoint_minutes=60.0,
            log_every=1000,
        )
        module = Timed(replace(config, run=run))
        fit(module, run, module.config)
    return 1e3 * (module.ended - module.began) / (LAST - FIRST)


def measure() -> dict[str, Any]:
    """What this tree's code takes; in a process of its own."""
    import torch

    found = host()
    if torch.cuda.is_available():
        found["step without"] = gpu_step(recycles=False)
        found["step with"] = gpu_step(recycles=True)
    return found


def tree(folder: Path) -> dict[str, Any]:
    """What the code of a folder takes."""
    code = "import json, recycled_errors; print(json.dumps(recycled_errors.measure()))"
    path = f"{folder}{os.pathsep}{ROOT / 'benchmarks'}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(earlier: Path) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        for package in ("longlive_core", "longlive_models"):
            (here / package).symlink_to(ROOT / package)
        (here / "longlive_recipes").symlink_to(ROOT / "recipes")
        rounds = [(tree(earlier), tree(here)) for _ in range(3)]
    digests = {one["digest"] for pair in rounds for one in pair}
    if len(digests) > 1:
        raise SystemExit("the two trees add or keep other numbers: nothing was timed")
    print(f"{'milliseconds':14} {'earlier':>9} {'now':>9} {'ratio':>7}   (numbers are the same)")
    for name in [name for name in rounds[0][0] if name != "digest"]:
        old, new = (min(pair[side][name] for pair in rounds) for side in (0, 1))
        print(f"{name:14} {old:9.1f} {new:9.1f} {old / new:7.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
