"""The launcher that started this process, as told by its environment, which only this module reads.

A launcher (torchrun, srun, mpirun) starts a command several times. Where the command is to run as
one process, each of them would write the same files.
"""

import os
from collections.abc import Mapping

_INTERACTIVE = ("bash", "sh", "zsh", "interactive")


def check_ranks(ranks: int, nodes: int = 1, option: str | None = None) -> None:
    """Raise ValueError if a launcher started other processes than the command is to run as.

    Args:
        ranks: processes that share the work, over all machines.
        nodes: machines.
        option: what sets ``ranks``; None where the command is always one process.
    """
    launched = launched_ranks(_environment())
    if launched is None:
        return
    count, said, joins = launched
    if count == ranks if joins else count in (1, nodes):
        return
    way = "Start it without a launcher"
    if option is not None and joins:
        way += f", or give {option} {count}"
    elif option is not None:
        way += f": {option} starts its processes itself"
    raise ValueError(
        f"{count} processes of this command were started ({said}), and it is to run as {ranks}: "
        f"they would write over each other's files. {way}."
    )


def is_first(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process is the one of its ranks that speaks for all of them."""
    environment = _environment() if environment is None else environment
    if launched_ranks(environment) is None:
        return True
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
    return all(environment.get(name, "0") == "0" for name in ranks)


def launched_ranks(environment: Mapping[str, str]) -> tuple[int, str, bool] | None:
    """How many processes a launcher started, what says so, and whether they can work as ranks.

    None without one. A shell inside a Slurm allocation is no launcher: what it starts is one
    process, however many tasks the allocation has.
    """
    if "RANK" in environment or "LOCAL_RANK" in environment:
        return _counted(environment, "WORLD_SIZE", joins=True)
    if "SLURM_STEP_NUM_TASKS" in environment:
        return _counted(environment, "SLURM_STEP_NUM_TASKS", joins=True)
    interactive = environment.get("SLURM_JOB_NAME") in _INTERACTIVE
    if environment.get("SLURM_PROCID", "0") != "0" and not interactive:
        return _counted(environment, "SLURM_NTASKS", joins=True)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if name in environment:
            return _counted(environment, name, joins=False)
    return None


def _environment() -> Mapping[str, str]:
    return os.environ


def _counted(
    environment: Mapping[str, str], name: str, *, joins: bool
) -> tuple[int, str, bool] | None:
    text = environment.get(name, "")
    return (int(text), f"{name}={text}", joins) if text.isdecimal() else None
