"""Checks before a training run begins: its folder, the machine's memory, processes, devices."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from longlive_recipes.training.checkpoint_files import CHECKPOINT
from longlive_recipes.training.run_folder import LOSSES, RECORD, REPORT, SPEEDS, VALIDATIONS

GIB = 1 << 30

_log = logging.getLogger(__name__)


def run_files(output: Path) -> list[tuple[str, Path]]:
    """What a run writes in place of what was there before, each behind what it is."""
    return [
        ("the run's record", output / RECORD),
        ("the run's checkpoint", output / CHECKPOINT),
        ("the run's losses", output / LOSSES),
        ("the run's validation", output / VALIDATIONS),
        ("the run's speed", output / SPEEDS),
        ("the run's report", output / REPORT),
        ("the model that is trained", output / "model"),
        ("the VAE that is trained", output / "vae"),
        ("the light decoder that is trained", output / "vae_light"),
    ]


def check_folder(name: str, folder: Path) -> None:
    """Raise ValueError where files cannot be put into ``folder``, which may not be there yet.

    Args:
        name: the field that names it.
    """
    found = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not found.is_dir():
        raise ValueError(
            f"{name}={str(folder)!r}: {found} is there and is no folder, so that nothing can be "
            f"written into it. Name another one."
        )
    if not os.access(found, os.W_OK | os.X_OK):
        raise ValueError(
            f"{name}={str(folder)!r}: {found} cannot be written by this user. Name another one."
        )


def check_disk(name: str, folder: Path, needed: int) -> None:
    """Raise ValueError where ``needed`` bytes have no room in ``folder``, which may not be there.

    Args:
        name: the field that asks for them.
    """
    found = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    free = shutil.disk_usage(found).free
    if needed > free:
        raise ValueError(
            f"{name} takes {needed / GIB:.1f} GiB of the disk of {folder}, which has "
            f"{free / GIB:.1f} left: the run would end when it is full. Make room, or ask for less."
        )


def check_not_replaced(written: Path, **inputs: str | None) -> None:
    """Raise ValueError where a folder that a run writes is, holds or lies in one that it reads.

    Args:
        inputs: of each field that names a folder or a file, its value.
    """
    mine = written.resolve()
    for name, value in inputs.items():
        if not value:
            continue
        theirs = Path(value).resolve()
        if mine == theirs or mine in theirs.parents or theirs in mine.parents:
            raise ValueError(
                f"{name}={value!r} would be replaced by {written}, which the run writes: what is "
                f"read stays as it is. Name another run.output."
            )


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Within the block no other process begins a run in ``folder``, which is made.

    Ranks of one run come through together: the first one asks for all. Where a file system knows
    no locks, nobody is kept out.

    Raises:
        ValueError: another process is at it.
    """
    if rank_zero_only.rank:  # type: ignore[attr-defined]  # Lightning sets it
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is training in {folder}: two would write the same files. Wait "
                f"for it, or name another folder (--set run.output=FOLDER)."
            ) from error
        except OSError:
            _log.warning("%s is on a file system without locks", folder)
        yield
    finally:
        os.close(handle)


def check_memory(needed: dict[str, float], device: torch.device) -> None:
    """Raise ValueError where a device has less memory than a run needs at the very least.

    Args:
        needed: in bytes, by what takes it; all at one time.
    """
    have, total = memory(device), sum(needed.values())
    if total <= have:
        return
    what, most = max(needed.items(), key=lambda item: item[1])
    raise ValueError(
        f"this run needs {total / GIB:,.1f} GiB at least, and {device} has {have / GIB:,.1f}: "
        f"{what} alone take {most / GIB:,.1f}. Ask for less of them."
    )


def memory(device: torch.device) -> int:
    """Bytes of a device's memory; of a CPU, what the machine has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """What a run computes on and with how many processes, in the words of Lightning's Trainer."""

    accelerator: str
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    devices: int
    num_nodes: int
    strategy: str | Strategy
    plugins: list[CheckpointIO | ClusterEnvironment]


def find_device(processes: Processes) -> torch.device:
    """The device that a Trainer of these processes computes on.

    Raises:
        ValueError: there is no such device, or Lightning refuses them, here and now.
    """
    if processes.accelerator in ("cuda", "gpu") and not _has_gpu(processes.accelerator):
        raise ValueError(
            f"run.accelerator={processes.accelerator}, and torch {torch.__version__} finds no GPU "
            f"on this machine. Use --set run.accelerator=auto, or cpu; `longlive doctor` says what "
            f"is there."
        )
    try:
        trainer = Trainer(
            accelerator=processes.accelerator,
            precision=processes.precision,
            devices=processes.devices,
            num_nodes=processes.num_nodes,
            strategy=processes.strategy,
            plugins=list(processes.plugins),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"a run cannot begin with {_in_words(processes)}: {' '.join(str(error).split())}"
        ) from error
    return trainer.strategy.root_device


def _has_gpu(accelerator: str) -> bool:
    """Whether there is a GPU for this word of Lightning's, which calls Apple's "gpu", too."""
    apple = accelerator == "gpu" and torch.backends.mps.is_available()
    return torch.cuda.is_available() or apple


def _in_words(processes: Processes) -> str:
    named = {name: value for name, value in vars(processes).items() if isinstance(value, str | int)}
    return ", ".join(f"{name}={value}" for name, value in named.items())
