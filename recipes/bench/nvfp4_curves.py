"""The pocket model from nothing, in bfloat16 and in NVFP4 by every rule for gradients: curves.

All runs have the same first weights, batches, noise and number of steps; they differ in how their
products are rounded. Each is measured in its own arithmetic, on clips and noise that are the same
for all. Where no hardware computes in four bits the rounded operands are multiplied in a wider
type, which has the same numbers. After LongLive-2.0 (arXiv 2605.18739, NVFP4 training).
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from longlive_core.module_swap import receipts
from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, TrainingConfig
from longlive_core.sequence_parallel import BalancedSP, SequenceGroup
from longlive_models.precision import in_short
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import CurvesOptions, Rows
from longlive_recipes.bench.plots import plot
from longlive_recipes.bench.record import Keep, not_kept
from longlive_recipes.configs.ar_options import PLAIN
from longlive_recipes.configs.run import Run
from longlive_recipes.configs.train_ar import TrainAR, ar_pocket, ar_tiny
from longlive_recipes.moving_shapes.latent_cache import ClipSet, prepare_clips
from longlive_recipes.train_ar import TrainARModule
from longlive_recipes.training.curves import Line
from longlive_recipes.training.fit import fit
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.run_folder import LOSSES, SPEEDS, VALIDATIONS, Points, read_table
from longlive_recipes.training.schedule import Phase, TrainingSchedule

BF16 = "bf16"
BLOCKS = 2
VALIDATIONS_A_RUN = 10
CHECKED = "first weights, batches and noise are the same for all"
LOOK_AGAIN = 5.0
"""Seconds between two looks at what runs have written."""

RULES = {"four over six": ScaleRule.FOUR_OVER_SIX_MSE, "amax 4": ScaleRule.AMAX_4}


def variants() -> dict[str, TrainingConfig]:
    """What is compared, bfloat16 first: gradient rules, rounding at random, the Hadamard."""
    found = {BF16: PLAIN}
    for (rule, scale), random, hadamard in product(RULES.items(), (True, False), (True, False)):
        rounding = "stochastic" if random else "nearest"
        name = f"{rule}, {rounding}, {'' if hadamard else 'no '}Hadamard"
        found[name] = TrainingConfig(
            gradient=QuantizeConfig(rule=scale, rounding="stochastic" if random else "nearest"),
            hadamard=hadamard,
        )
    return found


class CurveModule(TrainARModule):
    """AR training whose validations are the mean loss under fixed noise, and write nothing."""

    def __init__(self, config: TrainAR, noises: Sequence[int]) -> None:
        super().__init__(config)
        self.noises = tuple(noises)

    def validate(self) -> dict[str, float]:
        """The loss under each noise by its seed, and the mean of them."""
        [clips] = self.fresh.values()
        found = {}
        for seed in self.noises:
            torch.manual_seed(seed)
            drawn = torch.Generator().manual_seed(seed)
            count = self.config.validation_clips
            found[f"noise_{seed}"] = float(self.loss(self.model, clips, count, drawn))
        return {"loss": mean(found.values()), **found}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one run left, or has left so far.

    Attributes:
        validation: the mean loss on the fixed clips by step.
        noises: its parts by step, by the noise's seed.
        training: the loss of batches by step.
        seconds_a_step: the median over the run's rows.
    """

    validation: Points
    noises: dict[str, Points]
    training: Points
    seconds_a_step: float

    def at(self, step: int) -> dict[str, float]:
        """The losses on the fixed clips after ``step`` steps, by the noise's seed."""
        return {name: dict(points)[step] for name, points in self.noises.items()}


def measure(options: CurvesOptions, about: str, keep: Keep = not_kept) -> dict[str, Any]:
    """Train every variant and compare them with bfloat16.

    A run whose loss is no longer a number ends there; it is compared with the step that bfloat16
    had then.

    Args:
        keep: is given the record of the validations that there are, while runs go on.

    Raises:
        AssertionError: the loss of bfloat16 is no number.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configs = {
            name: curve_config(options, one, folder / str(place), folder / "latents")
            for place, (name, one) in enumerate(variants().items())
        }
        _prepare(configs[BF16], torch.device(options.device))
        record = partial(_record, options, about)

        def so_far() -> None:
            if (curves := _read(configs)).get(BF16):
                steps = {name: curve.validation[-1][0] for name, curve in curves.items()}
                least = min(steps.values()) if len(steps) == len(configs) else 0
                words = f"all runs have {least} of {options.steps} steps behind them, or more"
                keep(record(curves) | {"unfinished": words})

        ended = _train(configs, options, so_far)
        curves = _read(configs)
    require(not ended[BF16], f"{BF16}: {ended[BF16]}")
    early = {name: why for name, why in ended.items() if why}
    return record(curves) | {"checked": "; ".join([CHECKED, *map(": ".join, early.items())])}


def _record(options: CurvesOptions, about: str, curves: Mapping[str, Curve]) -> dict[str, Any]:
    return {
        "about": about,
        "rows": rows(curves),
        "checked": CHECKED,
        "validation_noise": {
            name: curve.at(curve.validation[-1][0]) for name, curve in curves.items()
        },
        "curves": {name: curve.validation for name, curve in curves.items()},
        "backends": arithmetic(torch.device(options.device)),
    }


def curve_config(
    options: CurvesOptions, quantized: TrainingConfig, output: Path, cache: Path
) -> TrainAR:
    """The config of one run."""
    on_gpu = options.device == "cuda"
    base = {"pocket": ar_pocket, "tiny": ar_tiny}[options.model]()
    return replace(
        base,
        sets=(ClipSet(blocks=BLOCKS, clips=options.clips),),
        phases=(Phase(length=BLOCKS, batch=options.batch, until=1.0),),
        validation_clips=options.validation_clips,
        latent_cache=str(cache),
        quantized=quantized,
        budget=TrainingSchedule(steps=options.steps, warmup_steps=max(1, options.steps // 20)),
        optimization=Optimization(ema_decay=0.99),
        run=Run(
            output=str(output),
            accelerator="cuda" if on_gpu else "cpu",
            precision="bf16-mixed" if on_gpu else "32-true",
            log_every=max(1, options.steps // 100),
            validate_every=max(1, options.steps // VALIDATIONS_A_RUN),
            samples_every=0,
            checkpoint_minutes=60.0,
            progress_bar=False,
        ),
        seed=options.seed,
    )


def rows(curves: Mapping[str, Curve]) -> Rows:
    """A row for each run; differences are of pairs under the same noise, after as many steps."""
    plain = curves[BF16]
    found: Rows = {}
    for name, curve in curves.items():
        step = min(plain.validation[-1][0], curve.validation[-1][0])
        losses = curve.at(step)
        more = [100 * (losses[noise] / loss - 1) for noise, loss in plain.at(step).items()]
        training = [loss for place, loss in curve.training if place <= step]
        found[name] = {
            "steps": step,
            "validation_loss": mean(losses.values()),
            "percent_above_bf16": mean(more),
            "standard_error": stdev(more) / sqrt(len(more)) if len(more) > 1 else 0.0,
            "training_loss_of_the_last_tenth": mean(training[-max(1, len(training) // 10) :]),
            "seconds_a_step": curve.seconds_a_step,
        }
    return found


def drawn(record: Mapping[str, Any]) -> str:
    """The curves of a record as an SVG file: losses, and how far they are above bfloat16's."""
    lines = [
        Line(name=name, points=[(int(step), loss) for step, loss in points], color=place)
        for place, (name, points) in enumerate(record["curves"].items())
    ]
    plain = dict(lines[0].points)
    above = [
        replace(
            line,
            points=[
                (step, 100 * (loss / plain[step] - 1))
                for step, loss in line.points
                if step in plain
            ],
        )
        for line in lines
    ]
    pictures = {"validation loss": lines, "percent above bf16": above}
    return plot(pictures, lines)


def arithmetic(device: torch.device) -> list[str]:
    """What quantizes and multiplies, and why nothing else does."""
    from longlive_core.nvfp4 import NVFP4TrainingLinear

    linear = NVFP4TrainingLinear(64, 64, config=TrainingConfig(), device=device)
    return list(in_short(receipts(torch.nn.ModuleDict({"every linear": linear}))))


def _prepare(config: TrainAR, device: torch.device) -> None:
    """Draw and encode the clips of all runs once."""
    [one] = config.sets
    sp = BalancedSP(SequenceGroup(), config.partition(one.blocks, 1), heads=config.model.num_heads)
    prepare_clips(
        one,
        config.seed + one.blocks,
        clip_format=config.world,
        vae=config.vae,
        cache=config.latent_cache,
        sp=sp,
        writes=True,
        device=device,
    )


def _train(
    configs: Mapping[str, TrainAR], options: CurvesOptions, so_far: Callable[[], None]
) -> dict[str, str]:
    """Every run, several at once: the model is small beside what a GPU does at a time.

    Returns why each ended before its last step; "" for those that did not.
    """
    noises = range(1, options.noises + 1)
    if options.at_once == 1:
        ended = {}
        for name, config in configs.items():
            ended[name] = _run(config, noises)
            so_far()
        return ended
    threads = max(1, (os.cpu_count() or 1) // options.at_once)
    with ProcessPoolExecutor(
        options.at_once,
        mp_context=get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(threads,),
    ) as pool:
        started = {name: pool.submit(_run, config, noises) for name, config in configs.items()}
        while wait(started.values(), timeout=LOOK_AGAIN).not_done:
            so_far()
        return {name: run.result() for name, run in started.items()}


def _run(config: TrainAR, noises: Sequence[int]) -> str:
    """Train once; why it ended before its last step, or ""."""
    try:
        fit(CurveModule(config, noises), config.run, config)
    except FloatingPointError as error:
        return str(error)
    return ""


def _read(configs: Mapping[str, TrainAR]) -> dict[str, Curve]:
    """The curves of all runs that have validated."""
    found = {}
    for name, config in configs.items():
        folder = Path(config.run.output)
        noises = dict(read_table(folder / VALIDATIONS))
        training = read_table(folder / LOSSES).get("loss", [])
        times = sorted(
            seconds for _, seconds in read_table(folder / SPEEDS).get("seconds_a_step", [])
        )
        validation = noises.pop("loss", [])
        if validation and training and times:
            found[name] = Curve(
                validation=validation,
                noises=noises,
                training=training,
                seconds_a_step=times[len(times) // 2],
            )
    return found
