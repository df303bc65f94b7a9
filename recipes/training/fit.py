"""What the training recipes share: where a run goes, how it is watched, how it begins and resumes.

A run's folder holds ``run.json`` (what it is), ``train.csv`` and ``validation.csv`` (its numbers),
``speed.csv``, ``tensorboard/``, ``samples/`` (videos made on the way), ``checkpoints/last.ckpt``,
``report.html`` (all of that to look at), and the model that the recipe writes.
"""

import logging
import shlex
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from longlive_core.checks import shown
from longlive_core.names import did_you_mean
from longlive_models.checkpoints.folder import fill
from longlive_models.schema import filled
from longlive_recipes.configs.run import Run
from longlive_recipes.run_record import as_plain, differences, read_run_record
from longlive_recipes.training.adamw import check_states
from longlive_recipes.training.callbacks import Record, Report
from longlive_recipes.training.checkpoint_files import (
    CHECKPOINT,
    WholeCheckpoints,
    check_fits,
    completed_steps,
    find_checkpoint,
    put_together,
    read_state,
)
from longlive_recipes.training.checkpoint_layout import averages_in, left_out
from longlive_recipes.training.kept_checkpoints import BestCheckpoints, LastCheckpoint
from longlive_recipes.training.log_tables import Table
from longlive_recipes.training.loggers import check_loggers, make_loggers
from longlive_recipes.training.module import TrainingModule, check_same_parts
from longlive_recipes.training.monitoring import LossLog, ProgressBar, SampleVideos, Validation
from longlive_recipes.training.parallel import Parallel, check_launch, environment
from longlive_recipes.training.run_checks import (
    Processes,
    check_folder,
    find_device,
    one_at_a_time,
)
from longlive_recipes.training.run_folder import LOSSES, SPEEDS, VALIDATIONS, require_fresh
from longlive_recipes.training.schedule import MOST_STEPS
from longlive_recipes.training.sharded_checkpoints import read_checkpoint
from longlive_recipes.training.sharded_strategy import strategy
from longlive_recipes.training.speed import Speed

MAY_CHANGE = (
    "parallel",
    "run.output",
    "run.samples_every",
    "run.checkpoint_minutes",
    "run.progress_bar",
    "run.best_k",
    "run.loggers",
)
"""Fields of a config that a resumed run may have changed: weights and logs do not depend on them,
but for the last digits, where another number of ranks adds up in another order."""


def check_machine(run: Run, parallel: Parallel | None = None) -> torch.device:
    """The device that a run is for.

    Raises:
        ValueError: this machine, or what started this process, is not what the run asks for.
    """
    parallel = Parallel() if parallel is None else parallel
    check_launch(parallel.ranks)
    with lightning_is_brief():
        device = find_device(_processes(run, parallel))
    parallel.check_room(device)
    if run.precision == "16-mixed" and device.type == "cpu":
        raise ValueError(
            "run.precision=16-mixed is for a GPU, and this run is for a CPU: float16 is not "
            "trained in there. Use bf16-mixed or 32-true."
        )
    return device


def check_run(
    run: Run,
    config: Any,
    *,
    resume: str | None,
    steps: int = MOST_STEPS,
    parts: Callable[[], nn.Module] | None = None,
) -> None:
    """Raise ValueError where a run would overwrite another one, or cannot go on.

    A folder that holds a checkpoint is only ever continued, under the config that it was begun
    with. ``resume`` may also begin a fresh folder, and then change the config. Nothing is written.

    Args:
        steps: how long the run is meant to be.
        parts: gives the module's parts by name, perhaps ``unfilled``, which a checkpoint has to
            fit.
    """
    output = Path(run.output)
    check_folder("run.output", output)
    check_loggers(run.loggers)
    own, earlier = output / CHECKPOINT, read_run_record(output)
    if resume is not None:
        checkpoint = find_checkpoint(resume)
        completed_steps(checkpoint)
        if earlier is not None:
            _check_unchanged(output, earlier, config)
        _check_resume(checkpoint, own, config, steps, parts)
    else:
        require_fresh(output)


def _check_resume(
    checkpoint: Path,
    own: Path,
    config: Any,
    steps: int,
    parts: Callable[[], nn.Module] | None,
) -> None:
    """Raise ValueError where a run cannot go on from a checkpoint.

    Args:
        own: the checkpoint of the folder that the run is written to, which may not be there.
    """
    done = completed_steps(checkpoint)
    if parts is not None:
        check_fits(checkpoint, parts(), config)
    if done > steps:
        raise ValueError(
            f"{checkpoint} has {done} steps behind it, and the run is to have "
            f"budget.steps={steps}: there is nothing left of it to train. Raise budget.steps."
        )
    inside = own.parent.resolve() in checkpoint.absolute().resolve().parents
    if own.exists() and not inside:
        raise ValueError(
            f"{own.parent.parent} holds a run of its own, whose checkpoint {checkpoint} would "
            f"replace: go on into a fresh folder (--set run.output=FOLDER)."
        )


def _check_unchanged(output: Path, earlier: dict[str, Any], config: Any) -> None:
    """Raise ValueError where the run that a record is of was begun with another config."""
    now = {"recipe": type(config).__name__, "config": as_plain(config)}
    config_before = as_plain(filled(earlier["config"], config))
    before = {"recipe": earlier["recipe"], "config": config_before}
    ignore = [f"config.{name}" for name in MAY_CHANGE]
    changed = [line.removeprefix("config.") for line in differences(before, now, ignore=ignore)]
    if changed:
        raise ValueError(
            f"the run in {output} was begun with another config ({'; '.join(changed)}): its logs "
            f"would be of both. Resume it as it was, or into a fresh folder "
            f"(--set run.output=FOLDER)."
        )


def fit(
    module: TrainingModule,
    run: Run,
    config: Any,
    *,
    resume: str | None = None,
    parallel: Parallel | None = None,
) -> Trainer:
    """Train ``module``; its averaged weights are in it afterwards.

    Args:
        parallel: over which ranks; this process starts the others, unless torchrun did. The module
            has to shard itself in ``configure_model``.
        resume: a checkpoint file, or the folder of an earlier run of the same config; a run that
            goes on from it ends with the weights and logs of one that was never stopped.

    Raises:
        ValueError: whatever ``check_run`` refuses, or another process writes the same run.
        KeyboardInterrupt: the run was interrupted, once: its checkpoint is of the step that it was
            in; twice: the last one is a few minutes old.
        SystemExit: the process was asked to end (SIGTERM); a checkpoint was written before.
        FloatingPointError: loss or weights are no numbers; the checkpoint before is kept.
        OSError: a file cannot be written; the checkpoint before is kept.
    """
    parallel = Parallel() if parallel is None else parallel
    check_machine(run, parallel)
    check_run(run, config, resume=resume, steps=module.training_schedule.steps)
    if run.precision == "16-mixed" and not module.automatic_optimization:
        raise ValueError(
            "run.precision=16-mixed is for recipes with one optimizer: one scale of losses serves "
            "one. Use bf16-mixed or 32-true."
        )
    check_best(run, module.measured)
    for plan in module.plan.optimizers.values():
        check_states(plan.adamw, parallel.ranks)
    checkpoint = None if resume is None else find_checkpoint(resume)
    if checkpoint is not None:
        check_same_parts(module.plan, read_state(checkpoint))
    with one_at_a_time(Path(run.output)):
        if checkpoint is not None and checkpoint.is_dir() and parallel.ranks == 1:
            checkpoint = put_together(checkpoint, Path(run.output) / CHECKPOINT)
        with lightning_is_brief(), _float32_matmul(run.float32_matmul), _stops_are_told_apart():
            trainer = build_trainer(module, run, config, parallel, checkpoint=checkpoint)
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    module.copy_averages()
    return trainer


def check_best(run: Run, measured: tuple[str, ...]) -> None:
    """Raise ValueError where ``run.best_metric`` is none of what a validation measures."""
    if run.best_metric is not None and run.best_metric not in measured:
        hint = did_you_mean(run.best_metric, measured)
        names = ", ".join(measured) or "nothing that the recipe tells of"
        raise ValueError(
            f"run.best_metric={shown(run.best_metric)} is not measured{hint}A validation of this "
            f"run measures {names}."
        )


def what_is_left(run: Run, resume: str | None = None, *, command: str) -> str:
    """What a run that was stopped can go on with: a sentence, from what is on the disk.

    Args:
        resume: what the run went on from.
        command: the command that trains, which a ``--resume`` can be added to.
    """
    if (Path(run.output) / CHECKPOINT).exists():
        steps = completed_steps(find_checkpoint(run.output))
        again = shlex.join(["--resume", run.output])
        return f"{steps} steps are kept; go on with: {command} {again}"
    if resume is not None:
        return f"nothing is kept of this run; go on from {resume} as before."
    return "nothing is kept, for no checkpoint was written: begin again."


def load_average(module: TrainingModule, resume: str) -> int:
    """Give a module that is not being trained the weights of a run's checkpoint, averaged ones.

    Returns:
        the steps that the checkpoint has behind it.

    Raises:
        ValueError: there is no such checkpoint, or it is of another module.
    """
    file = find_checkpoint(resume)
    steps = completed_steps(file)
    checkpoint = read_checkpoint(file)
    check_same_parts(module.plan, checkpoint)
    own = module.state_dict()
    weights = checkpoint["state_dict"] | {name: own[name] for name in left_out(checkpoint)}
    for name, state in averages_in(checkpoint).items():
        if module.plan.averages[name].evaluated:
            weights |= state["average"]
    fill(module, weights, file)
    return steps


def build_trainer(
    module: TrainingModule,
    run: Run,
    config: Any,
    parallel: Parallel,
    *,
    checkpoint: Path | None = None,
) -> Trainer:
    """Lightning's Trainer with the callbacks of a run."""
    output = Path(run.output)
    resumed, purge = None, None
    if checkpoint is not None:
        step = completed_steps(checkpoint)
        resumed, purge = {"checkpoint": str(checkpoint), "step": step}, step + 1
    losses = LossLog(Table(output / LOSSES), every=run.log_every)
    speed = Speed(Table(output / SPEEDS), every=run.log_every)
    validation = Validation(Table(output / VALIDATIONS), every=run.validate_every)
    callbacks: list[Callback] = [
        Record(output, config, resumed=resumed),
        module.run_progress,
        *module.averages.values(),
        losses,
        speed,
        validation,
    ]
    if run.samples_every:
        every = run.validate_every * run.samples_every
        callbacks.append(SampleVideos(output / "samples", every=every))
    if run.progress_bar:
        callbacks.append(ProgressBar(losses, speed, validation))
    best = None
    if run.best_metric is not None:
        best = BestCheckpoints(
            output, validation, metric=run.best_metric, mode=run.best_mode, count=run.best_k
        )
        callbacks.append(best)
    minutes, last = run.checkpoint_minutes, output / CHECKPOINT
    callbacks += [
        LastCheckpoint(last, module.run_progress, minutes=minutes, best=best),
        Report(output),
    ]
    processes = _processes(run, parallel)
    return Trainer(
        accelerator=processes.accelerator,
        precision=processes.precision,
        devices=processes.devices,
        num_nodes=processes.num_nodes,
        strategy=processes.strategy,
        plugins=list(processes.plugins),
        # Lightning counts updates, which are no steps where a module makes them itself: there the
        # run's progress alone ends it
        max_steps=module.training_schedule.steps if module.automatic_optimization else -1,
        max_epochs=-1,
        gradient_clip_val=module.max_grad_norm,
        logger=[
            TensorBoardLogger(str(output), name="tensorboard", version="", purge_step=purge),
            *make_loggers(run, config),
        ],
        callbacks=callbacks,
        log_every_n_steps=1,  # Lightning logs nothing by itself here
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        benchmark=run.benchmark,
        default_root_dir=output,
    )


def _processes(run: Run, parallel: Parallel) -> Processes:
    """The processes and devices that a run computes on."""
    writer = [WholeCheckpoints()] if parallel.ranks == 1 else []  # several ranks write folders
    alone = environment(parallel.ranks)
    return Processes(
        accelerator=run.accelerator,
        precision=run.precision,
        devices=parallel.ranks // parallel.nodes,
        num_nodes=parallel.nodes,
        strategy=strategy(parallel),
        plugins=[*writer, *([] if alone is None else [alone])],
    )


@contextmanager
def _stops_are_told_apart() -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt, and SIGTERM SystemExit with its status.

    Lightning by itself ends the process after the first, and with status 0 after the second.
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    except SystemExit as stop:
        signal.signal(signal.SIGINT, on_interrupt)  # Lightning ignores it from then on
        raise KeyboardInterrupt from stop


@contextmanager
def _float32_matmul(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def lightning_is_brief() -> Iterator[None]:
    """Within the block, Lightning gives no tips, and two warnings of its own code are ignored."""
    log = logging.getLogger("pytorch_lightning")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch for the type of a tree's leaf in a way that 2.13 deprecates
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
            # who asks for a CPU knows that
            warnings.filterwarnings("ignore", message="GPU available but not used")
            # the loss never writes into what the model returns
            warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* a view tensor")
            yield
    finally:
        log.setLevel(before)
