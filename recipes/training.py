"""What the training recipes share: where a run goes, how it is watched, how it begins and resumes.

A run's folder holds ``run.json`` (what it is), ``train.csv`` and ``validation.csv`` (its numbers),
``tensorboard/``, ``samples/`` (videos made on the way), ``checkpoints/last.ckpt``, and the model
that the recipe writes.
"""

import logging
import pickle
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from longlive_models.folder import fill
from longlive_recipes.callbacks import LastCheckpoint, Record
from longlive_recipes.monitoring import LossLog, ProgressBar, SampleVideos, Table, Validation
from longlive_recipes.parallel import AVERAGE, META, Parallel, read_checkpoint, read_meta
from longlive_recipes.run_record import as_plain, differences, read_run_record
from longlive_recipes.shards import read_metadata
from longlive_recipes.step_module import StepModule

CHECKPOINT = Path("checkpoints") / "last.ckpt"
MAY_CHANGE = (
    "parallel",
    "run.output",
    "run.samples_every",
    "run.checkpoint_minutes",
    "run.progress_bar",
)
"""Fields of a config that a resumed run may have changed: neither weights nor logs know them, but
for the last digits, where another number of ranks adds up in another order."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run goes and how it is watched; nothing here changes what is learnt.

    Attributes:
        output: the folder of the run.
        precision: as Lightning's Trainer names it.
        compile: compile the model: faster after a minute or two of waiting.
        benchmark: let cuDNN try its convolutions: faster, not bit-reproducible.
        float32_matmul: how a GPU multiplies the float32 matrices that autocast leaves.
        log_every, validate_every: in steps.
        samples_every: write sample videos at every so many validations; 0 writes none.
        checkpoint_minutes: a run that is killed loses no more than this.
    """

    output: str
    accelerator: str = "auto"
    precision: str = "bf16-mixed"
    compile: bool = False
    benchmark: bool = False
    float32_matmul: Literal["highest", "high", "medium"] = "high"
    log_every: int = 20
    validate_every: int = 1000
    samples_every: int = 1
    checkpoint_minutes: float = 1.0
    progress_bar: bool = True

    def __post_init__(self) -> None:
        if min(self.log_every, self.validate_every) < 1 or self.samples_every < 0:
            raise ValueError(
                f"a run logs and validates every 1 or more steps, and samples_every=0 writes no "
                f"samples, got log_every={self.log_every}, validate_every={self.validate_every}, "
                f"samples_every={self.samples_every}."
            )


def check_run(run: Run, config: Any, *, resume: str | None) -> None:
    """Raise ValueError where a run would overwrite another one, or cannot be resumed.

    A folder that holds a checkpoint is only ever continued, under the config that it was begun
    with. ``resume`` may also begin a fresh folder, and then change the config.
    """
    output = Path(run.output)
    if resume is not None:
        completed_steps(find_checkpoint(resume))
    elif (output / CHECKPOINT).exists():
        raise ValueError(
            f"{output} holds a run already: go on with it (--resume {output}), or name another "
            f"folder (--set run.output=FOLDER)."
        )
    earlier = read_run_record(output)
    if resume is None or earlier is None:
        return
    now = {"recipe": type(config).__name__, "config": as_plain(config)}
    before = {name: earlier[name] for name in now}
    ignore = [f"config.{name}" for name in MAY_CHANGE]
    changed = [line.removeprefix("config.") for line in differences(before, now, ignore=ignore)]
    if changed:
        raise ValueError(
            f"the run in {output} was begun with another config ({'; '.join(changed)}): its logs "
            f"would be of both. Resume it as it was, or into a fresh folder "
            f"(--set run.output=FOLDER)."
        )


def find_checkpoint(resume: str) -> Path:
    """The checkpoint that ``resume`` names: itself, or the folder of a run.

    A checkpoint is a file, or of a run over several ranks a folder.
    """
    path = Path(resume)
    is_run = path.is_dir() and not (path / META).is_file()
    file = path / CHECKPOINT if is_run else path
    if not file.is_file() and not (file / META).is_file():
        raise ValueError(
            f"there is no checkpoint {str(file)!r} to go on from: name the folder of a run, or "
            f"a file like {CHECKPOINT} in it."
        )
    return file


def completed_steps(checkpoint: Path) -> int:
    """How many steps a checkpoint has behind it.

    Raises:
        ValueError: it is no checkpoint, or one that would run code.
    """
    if checkpoint.is_dir():
        read_metadata(checkpoint)
    try:
        return read_meta(checkpoint)["global_step"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError) as error:
        raise ValueError(
            f"{checkpoint} is no checkpoint of a training run: name the folder of a run, or a "
            f"file like {CHECKPOINT} in it."
        ) from error


def fit(
    module: StepModule,
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
        ValueError: whatever ``check_run`` refuses.
        KeyboardInterrupt: the run was interrupted; its last checkpoint is a few minutes old.
        SystemExit: the process was asked to end (SIGTERM); a checkpoint was written before.
    """
    check_run(run, config, resume=resume)
    parallel = Parallel() if parallel is None else parallel
    checkpoint = None if resume is None else find_checkpoint(resume)
    if checkpoint is not None and checkpoint.is_dir() and parallel.ranks == 1:
        checkpoint = put_together(checkpoint, Path(run.output) / CHECKPOINT)
    with lightning_is_brief(), _float32_matmul(run.float32_matmul), _stops_are_told_apart():
        trainer = build_trainer(module, run, config, parallel, checkpoint=checkpoint)
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    module.average.copy_to(module)
    return trainer


def put_together(sharded: Path, path: Path) -> Path:
    """Write a sharded checkpoint to ``path`` as one file, in one move."""
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(read_checkpoint(sharded), part)
    part.replace(path)
    return path


def load_average(module: StepModule, resume: str) -> int:
    """Give a module that is not being trained the averaged weights of a run's checkpoint.

    Returns:
        the steps that the checkpoint has behind it.

    Raises:
        ValueError: there is no such checkpoint, or it is of another module.
    """
    file = find_checkpoint(resume)
    steps = completed_steps(file)
    fill(module, read_checkpoint(file)["callbacks"][AVERAGE]["average"], file)
    return steps


def build_trainer(
    module: StepModule,
    run: Run,
    config: Any,
    parallel: Parallel,
    *,
    checkpoint: Path | None = None,
) -> Trainer:
    """Lightning's Trainer with everything that rides along with a run."""
    output = Path(run.output)
    resumed, purge = None, None
    if checkpoint is not None:
        step = completed_steps(checkpoint)
        resumed, purge = {"checkpoint": str(checkpoint), "step": step}, step + 1
    losses = LossLog(Table(output / "train.csv"), every=run.log_every)
    validation = Validation(Table(output / "validation.csv"), every=run.validate_every)
    callbacks: list[Callback] = [
        Record(output, config, resumed=resumed),
        module.clock,
        module.average,
        losses,
        validation,
    ]
    if run.samples_every:
        every = run.validate_every * run.samples_every
        callbacks.append(SampleVideos(output / "samples", every=every))
    if run.progress_bar:
        callbacks.append(ProgressBar(losses, validation))
    callbacks.append(
        LastCheckpoint(output / CHECKPOINT, module.clock, minutes=run.checkpoint_minutes)
    )
    return Trainer(
        accelerator=run.accelerator,
        devices=parallel.ranks // parallel.nodes,
        num_nodes=parallel.nodes,
        strategy=parallel.strategy(),
        precision=run.precision,  # type: ignore[arg-type]
        max_steps=module.budget.steps,
        gradient_clip_val=module.optimisation.max_grad_norm,
        logger=TensorBoardLogger(str(output), name="tensorboard", version="", purge_step=purge),
        callbacks=callbacks,
        log_every_n_steps=1,  # Lightning logs nothing by itself here
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        benchmark=run.benchmark,
        default_root_dir=output,
    )


@contextmanager
def _stops_are_told_apart() -> Iterator[None]:
    """Lightning ends the process after an interrupt, and with status 0 after a SIGTERM."""
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
    """Within the block, Lightning keeps tips to itself, and a deprecated call of its own."""
    log = logging.getLogger("pytorch_lightning")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch for the type of a tree's leaf in a way that 2.13 deprecates
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
            # the loss never writes into what the model returns
            warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* a view tensor")
            yield
    finally:
        log.setLevel(before)
