"""Where the numbers of a run go beside TensorBoard and CSV: Weights & Biases, MLflow.

Both packages are optional, and have settings of their own (accounts, servers, offline mode), which
are theirs to read. The names under which a run is known there are kept in its folder, so that a run
that is resumed goes on there, too.
"""

import json
import uuid
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from longlive_models.documents import read_json
from longlive_recipes.configs.run import LOGGERS, Run
from longlive_recipes.training.run_folder import flat

PROJECT = "longlive"
"""The project of W&B, and the experiment of MLflow, that runs are put into."""

RUN_IDS = "loggers.json"


def check_loggers(names: Iterable[str]) -> None:
    """Raise ValueError for a logger that there is not, or whose package is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise ValueError(
                f"there is no logger {name!r}: numbers go to {' and '.join(LOGGERS)}, as they are "
                f"asked for, and always to TensorBoard and CSV. Use one of these."
            )
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder that W&B writes has its name, too
            raise ValueError(
                f"the logger {name} needs a package that is not installed: pip install "
                f'"longlive[{name}]", or leave the logger out.'
            )


def make_loggers(run: Run, config: Any) -> list[Any]:
    """Lightning's loggers of a run, beside that of TensorBoard; begun, or gone on with.

    Raises:
        ValueError: a logger's package or its server refuses.
    """
    if not run.loggers:
        return []
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from longlive_recipes.run_record import as_plain, replace_file

    first = not rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it
    output = Path(run.output)
    file = output / RUN_IDS
    known = read_json(file, "the names of a run at its loggers") if file.is_file() else {}
    loggers = []
    for name in run.loggers:
        try:
            logger, own = _MAKERS[name](output, known.get(name))
            if first and name not in known:
                logger.log_hyperparams(flat(as_plain(config)))
        except Exception as error:  # of packages that are not known here
            raise ValueError(
                f"the logger {name} cannot begin: {' '.join(str(error).split())} Look at the "
                f"settings of {name}, or leave the logger out."
            ) from error
        loggers.append(logger)
        known[name] = own
    if first:
        replace_file(file, json.dumps(known, indent=2) + "\n")
    return loggers


def _wandb(output: Path, known: str | None) -> tuple[Any, str]:
    from pytorch_lightning.loggers import WandbLogger

    own = known or uuid.uuid4().hex[:12]
    logger = WandbLogger(
        name=output.resolve().name, save_dir=output, project=PROJECT, id=own, resume="allow"
    )
    return logger, own


def _mlflow(output: Path, known: str | None) -> tuple[Any, str]:
    from pytorch_lightning.loggers import MLFlowLogger

    logger = MLFlowLogger(
        experiment_name=PROJECT,
        run_name=output.resolve().name,
        save_dir=str(output.resolve() / "mlruns"),
        run_id=known,
    )
    return logger, str(logger.run_id)


_MAKERS = {"wandb": _wandb, "mlflow": _mlflow}
