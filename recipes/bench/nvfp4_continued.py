"""A finished teacher trained on for equal steps in NVFP4 and in bfloat16, both packed and judged.

Does training in four bits close the gap that packing opens? Both continuations have the teacher's
weights, the same batches and noise. What each leaves is packed alike, makes the same videos from
the same prompts and seeds, and is judged video by video. After LongLive-2.0 (arXiv 2605.18739).
"""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

from longlive_core.kv_cache import Window
from longlive_core.nvfp4 import TrainingConfig
from longlive_models.checkpoints.folder import read_config
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.text import PocketTextConfig
from longlive_recipes import evaluate, quantize_weights, train_ar
from longlive_recipes.bench import pairs
from longlive_recipes.bench.options import ContinuedOptions
from longlive_recipes.bench.record import Keep, not_kept, unfinished_line
from longlive_recipes.configs.ar_options import PLAIN
from longlive_recipes.configs.evaluate import Evaluate
from longlive_recipes.configs.quantize_weights import QuantizeWeights
from longlive_recipes.configs.run import Run
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.run_folder import VALIDATIONS, read_table
from longlive_recipes.training.schedule import Phase, TrainingSchedule

BLOCKS = 2
ARMS = {"bf16": PLAIN, "nvfp4": TrainingConfig()}
"""How the products of each continuation are computed; the first is the one, then the other."""


def measure(options: ContinuedOptions, about: str, keep: Keep = not_kept) -> dict[str, Any]:
    """Train, pack, evaluate, compare.

    Args:
        keep: is given the losses once both are trained, and what is known of the first one's
            videos once they are judged.

    Raises:
        ValueError: a teacher that cannot be trained on.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configs = {
            arm: continued(options, quantized, folder / arm) for arm, quantized in ARMS.items()
        }
        for config in configs.values():
            train_ar.check(config)
        trained = _train(list(configs.values()), at_once=options.at_once)
        losses = {arm: _loss(Path(one.run.output)) for arm, one in configs.items()}
        found: dict[str, Any] = {"about": about, "validation_loss": losses, "suites": {}}
        keep(found | {"unfinished": "both are trained, neither is judged"})
        judged = []
        for arm, model in zip(ARMS, trained, strict=True):
            judged.append([_judge(options, model)])
            if len(judged) < len(ARMS):
                alone = {"suites": pairs.compare(judged[0], judged[0])}
                keep(found | alone | {"unfinished": f"{arm} stands on both sides, the only judged"})
    one, other = judged
    return found | {"suites": pairs.compare(one, other), **pairs.sides(one, other)}


def as_markdown(record: Mapping[str, Any]) -> str:
    """The comparison as a table: the one continued in bfloat16, the other in NVFP4."""
    losses = ", ".join(f"{arm} {loss:.4f}" for arm, loss in record["validation_loss"].items())
    lines = [
        f"# {record['benchmark']}",
        "",
        record["about"],
        "",
        pairs.as_markdown(dict(record)),
        f"- validation loss, each in its own arithmetic: {losses}",
        *unfinished_line(record),
        f"- commit {record['commit']}: `{record['command']}`",
        "",
    ]
    return "\n".join(lines)


def continued(options: ContinuedOptions, quantized: TrainingConfig, output: Path) -> TrainAR:
    """The config of one continuation: the teacher's sizes, world and settings."""
    teacher = resolve(options.teacher)
    spec = read_spec(teacher)
    settings, on_gpu = spec.settings, options.device == "cuda"
    text = PocketTextConfig.from_dict(read_config(teacher / "text_encoder"))
    return TrainAR(
        model=spec.transformer,
        text=text,
        vae=str(teacher),
        world=replace(ClipFormat(), size=settings.height, fps=int(settings.fps)),
        sets=(ClipSet(blocks=BLOCKS, clips=options.clips),),
        phases=(Phase(length=BLOCKS, batch=options.batch, until=1.0),),
        window=Window(pages=settings.window, sink=settings.sink, shot_sink=settings.shot_sink),
        shot_offset=settings.shot_offset,
        shift=settings.shift,
        guidance=settings.guidance,
        start_from=str(teacher),
        quantized=quantized,
        validation_clips=min(32, options.clips),
        budget=TrainingSchedule(steps=options.steps, warmup_steps=max(1, options.steps // 20)),
        optimization=Optimization(learning_rate=options.learning_rate, ema_decay=0.99),
        run=Run(
            output=str(output),
            accelerator="cuda" if on_gpu else "cpu",
            precision="bf16-mixed" if on_gpu else "32-true",
            validate_every=options.steps,
            samples_every=0,
            checkpoint_minutes=60.0,
            progress_bar=False,
        ),
        seed=options.seed,
    )


def _train(configs: Sequence[TrainAR], *, at_once: int) -> list[Path]:
    """Train every continuation; the folders of their models."""
    if at_once == 1:
        return [train_ar.run(config) for config in configs]
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        return list(pool.map(train_ar.run, configs))


def _loss(run: Path) -> float:
    """The mean of the last validation's losses."""
    return mean(points[-1][1] for points in read_table(run / VALIDATIONS).values())


def _judge(options: ContinuedOptions, model: Path) -> dict[str, Any]:
    """Pack a model, and make and judge the videos of all pairs; the evaluation's record."""
    packed = model.with_name("packed")
    quantize_weights.run(QuantizeWeights(model=str(model), device=options.device), packed)
    heldout = options.pairs // 3
    return evaluate.run(
        Evaluate(
            model=str(packed),
            device=options.device,
            weights=options.weights,
            steps=options.evaluation_steps,
            seconds=options.seconds,
            seen=options.pairs - heldout,
            heldout=heldout,
            storyboards=0,
            long=0,
            batch=options.evaluation_batch,
            workers=options.workers,
            seed=options.seed,
        )
    )
