"""The files of a training run's folder by name, and a reader of what they say. Needs no torch."""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longlive_core.checks import real, whole
from longlive_models.documents import read_json, read_text

RECORD = "run.json"
LOSSES, VALIDATIONS, SPEEDS = "train.csv", "validation.csv", "speed.csv"
SAMPLES, SHEET = "samples", "sheet.png"
REPORT = "report.html"
CHECKPOINT = Path("checkpoints") / "last.ckpt"
META = "meta.pt"  # in a checkpoint that is a folder
BEST = Path("checkpoints") / "best"
BEST_INDEX = BEST / "best.json"

Points = list[tuple[int, float]]
"""Steps and values, in the order of the steps."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A picture of sample videos: a row of frames of each.

    Attributes:
        step: after how many steps they were made.
        png: the file's bytes.
        videos: the names of the videos, as their files have them.
    """

    step: int
    png: bytes
    videos: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """What a run has written so far.

    Attributes:
        path: the folder.
        record: ``run.json``: the config, the code, the machine.
        losses, validations, speeds: the tables, by column; columns without a number are left out.
        sheets: sheets of samples, the newest last.
    """

    path: Path
    record: Mapping[str, Any]
    losses: Mapping[str, Points]
    validations: Mapping[str, Points]
    speeds: Mapping[str, Points]
    sheets: tuple[Sheet, ...]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Read a folder, of a run that is over or still going on.

        Raises:
            ValueError: there is no run in it, or a file of it is damaged.
        """
        if not path.is_dir():
            raise ValueError(
                f"{path} is no folder: a run's folder is what run.output names. Check the path."
            )
        if not (path / RECORD).is_file():
            raise ValueError(
                f"{path} holds no training run: there is no {RECORD} in it, which a run writes "
                f"before its first step. Name the folder that run.output names."
            )
        record = read_json(path / RECORD, "the record of a run")
        if not isinstance(record.get("config"), dict):
            raise ValueError(
                f"{path / RECORD} is no record of a run: it has no config. Name another folder."
            )
        return cls(
            path=path,
            record=record,
            losses=read_table(path / LOSSES),
            validations=read_table(path / VALIDATIONS),
            speeds=read_table(path / SPEEDS),
            sheets=_sheets(path / SAMPLES),
        )

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def steps(self) -> int:
        """How many steps the tables tell of."""
        tables = (self.losses, self.validations, self.speeds)
        return max((points[-1][0] for table in tables for points in table.values()), default=0)

    @property
    def settings(self) -> dict[str, Any]:
        """The config's fields by their names for ``--set``."""
        return flat(self.record["config"])


def read_table(path: Path) -> dict[str, Points]:
    """The columns of a table of numbers, by name; empty where the file is not there.

    A row that is cut off, an empty place and what is no finite number are passed over.

    Raises:
        ValueError: the file's first column is not the number of the step.
    """
    if not path.exists():
        return {}
    lines = list(csv.reader(read_text(path, "a run's table").splitlines()))
    header, rows = lines[0] if lines else [], lines[1:]
    if header[:1] != ["step"]:
        raise ValueError(
            f"{path} is no table of a run: its first column is not 'step'. Name the folder of a "
            f"run that nobody has changed."
        )
    found: dict[str, Points] = {name: [] for name in header[1:]}
    for row in rows:
        if len(row) == len(header) and row[0].isdecimal():
            for name, text in zip(header[1:], row[1:], strict=True):
                value = _number(text)
                if math.isfinite(value):
                    found[name].append((int(row[0]), value))
    return {name: points for name, points in found.items() if points}


def best_file(folder: Path, step: int) -> Path:
    """The checkpoint of a run's folder that is kept for the validation after ``step`` steps."""
    return folder / BEST / f"step_{step:07d}.ckpt"


def read_best(folder: Path) -> list[tuple[int, float]]:
    """Steps and numbers of the best validations of which checkpoints are kept, the best first.

    Raises:
        ValueError: the list of them is damaged.
    """
    index = folder / BEST_INDEX
    if not index.is_file():
        return []
    try:
        return [
            (whole("step", one["step"], at_least=1, why=""), real("value", one["value"], why=""))
            for one in read_json(index, "the best checkpoints")["kept"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{index} does not list the best checkpoints of a run: it has no steps and values "
            f"under 'kept'. Move it away to go on without them."
        ) from error


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint of the best validation of a run.

    Raises:
        ValueError: the run has kept none.
    """
    there = [file for step, _ in read_best(folder) if (file := best_file(folder, step)).exists()]
    if not there:
        raise ValueError(
            f"{folder} has no best checkpoint: a run keeps some with run.best_k above 0, once it "
            f"has validated. Leave --best out to take the last one."
        )
    return there[0]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names; a list of plain values is one value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
            value = {str(place): one for place, one in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _counted(name: str) -> list[tuple[int, str]]:
    """Orders names by the numbers in them, as their rows are drawn: prompt_2 before prompt_10."""
    return [(int(part or -1), text) for text, part in re.findall(r"([^0-9]*)([0-9]*)", name)]


def _sheets(folder: Path) -> tuple[Sheet, ...]:
    found = []
    for place in sorted(folder.glob("step_*")):
        number = place.name.removeprefix("step_")
        if number.isdecimal() and (place / SHEET).is_file():
            videos = tuple(sorted((one.stem for one in place.glob("*.mp4")), key=_counted))
            found.append(Sheet(step=int(number), png=(place / SHEET).read_bytes(), videos=videos))
    return tuple(sorted(found, key=lambda sheet: sheet.step))


def find_checkpoint(resume: str) -> Path:
    """The checkpoint that ``resume`` names: itself, or the folder of a run.

    A checkpoint is a file, or of a run over several ranks a folder. Raises ValueError where it is
    not there.
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


def require_fresh(output: Path) -> None:
    """Raise ValueError where a folder holds a run already, which is only ever continued."""
    if (output / CHECKPOINT).exists():
        raise ValueError(
            f"{output} holds a run already: go on with it (--resume {output}), or name another "
            f"folder (--set run.output=FOLDER)."
        )
