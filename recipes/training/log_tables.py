"""Tables of numbers that a run writes as it goes, and can take back to an earlier step."""

import csv
from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning import Trainer

from longlive_recipes.run_record import replace_file


class Table:
    """A CSV file with a row for a step; a row is in the file once it is added.

    A column is begun by the first row that has a value for it, and is empty where a row has none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        columns = self._columns()
        if new := [name for name in values if name not in columns]:
            columns = self._widen([*(columns or ["step"]), *new])
        row = [step if name == "step" else values.get(name, "") for name in columns]
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)  # as `rewind` writes them

    def _columns(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open() as file:
            return file.readline().rstrip().split(",")

    def _widen(self, columns: list[str]) -> list[str]:
        """Write the file anew with these columns, of which it has the first ones."""
        rows = self.path.read_text().splitlines()[1:] if self.path.exists() else []
        wide = [row + "," * (len(columns) - 1 - row.count(",")) for row in rows]
        replace_file(self.path, "\n".join([",".join(columns), *wide]) + "\n")
        return columns

    def rewind(self, step: int) -> None:
        """Remove rows after ``step``, and a row that a full disk cut off."""
        if not self.path.exists():
            return
        header, *rows = self.path.read_text().splitlines(keepends=True)
        columns = header.count(",")
        whole = [
            row.rstrip("\n") for row in rows if row.endswith("\n") and row.count(",") == columns
        ]
        kept = [row for row in whole if int(row.partition(",")[0]) <= step]
        if kept:
            replace_file(self.path, "\n".join([header.rstrip(), *kept]) + "\n")
        else:
            self.path.unlink()


def log_numbers(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Hand a row to TensorBoard, and to whichever other loggers a trainer has."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step)
