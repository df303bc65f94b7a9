"""The page of a training run, ``report.html``, and the page that compares several. Needs no torch.

Both are made of what lies in the runs' folders, so that they can be made at any time, of runs of
other machines too.
"""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from longlive_models.file_names import part
from longlive_recipes.training import page
from longlive_recipes.training.curves import Line, short, thinned
from longlive_recipes.training.run_folder import REPORT, Points, RunFolder, Sheet

MOST_SHEETS = 6
"""How many sheets of samples a page holds, from the first to the newest."""

Table = Mapping[str, Points]

RATE = "learning_rate"
SPEEDS = {
    "seconds_a_step": "seconds a step",
    "frames_a_second": "frames a second",
    "memory_gib": "peak memory, GiB",
}
SECTIONS: dict[str, Callable[[RunFolder], Table]] = {
    "Curves": lambda run: {
        **{name: points for name, points in run.losses.items() if not name.startswith(RATE)},
        **{f"validation: {name}": points for name, points in run.validations.items()},
        **{name: points for name, points in run.losses.items() if name.startswith(RATE)},
    },
    "Speed and memory": lambda run: {
        words: run.speeds[name] for name, words in SPEEDS.items() if name in run.speeds
    },
}


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder; its path.

    Raises:
        ValueError: there is no run in the folder.
        OSError: the file cannot be written.
    """
    path = folder / REPORT
    write_page(path, report(RunFolder.read(folder)))
    return path


def write_page(path: Path, text: str) -> None:
    """Write a page in one move. Raises OSError where it cannot be written."""
    new = path.with_name(part(path.name))
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def report(run: RunFolder) -> str:
    """The page of one run: numbers, curves, samples, config, machine."""
    record = run.record
    body = [
        f"<h1>{escape(run.name)}</h1>",
        f'<p class="quiet">{escape(_words(record))}</p>',
        page.tiles(_numbers(run)),
    ]
    for name, choose in SECTIONS.items():
        if columns := choose(run):
            pictures = (_chart(n, [Line(name=n, points=p)]) for n, p in columns.items())
            body += [f"<h2>{name}</h2>", page.columns(pictures)]
    if not any(choose(run) for choose in SECTIONS.values()):
        body.append("<p>No step has been logged yet.</p>")
    if run.sheets:
        chosen = _chosen(run.sheets)
        sheets = (page.sample_sheet(one, f"after step {one.step}", _prompts(run)) for one in chosen)
        body += ["<h2>Samples</h2>", page.columns(sheets, wide=True)]
    body += ["<h2>Machine and code</h2>", page.table((), _circumstances(record))]
    body += ["<h2>Config</h2>", page.table(("field", "value"), run.settings.items())]
    return page.page(f"{run.name}: training run", body)


def comparison(runs: Sequence[RunFolder]) -> str:
    """The page of several runs: each picture has a line of each run that has such a column."""
    names = _names(runs)
    keys = [Line(name=name, points=[], color=place) for place, name in enumerate(names)]
    body = ["<h1>Training runs side by side</h1>", page.legend(keys)]
    numbers = [_numbers(run) for run in runs]
    labels = dict.fromkeys(label for one in numbers for label in one)
    rows = [[label, *(one.get(label, "") for one in numbers)] for label in labels]
    body += ["<h2>Where they are</h2>", page.table(("", *names), rows)]
    for name, choose in SECTIONS.items():
        tables = [choose(run) for run in runs]
        columns = dict.fromkeys(column for one in tables for column in one)
        pictures = [
            _chart(
                column,
                [
                    Line(name=name, points=one[column], color=place)
                    for place, (name, one) in enumerate(zip(names, tables, strict=True))
                    if column in one
                ],
            )
            for column in columns
        ]
        if pictures:
            body += [f"<h2>{name}</h2>", page.columns(pictures)]
    newest = [
        page.sample_sheet(
            run.sheets[-1], f"{name}, after step {run.sheets[-1].step}", _prompts(run)
        )
        for name, run in zip(names, runs, strict=True)
        if run.sheets
    ]
    if newest:
        body += ["<h2>Newest samples</h2>", page.columns(newest, wide=True)]
    body += ["<h2>Where their configs differ</h2>", _differences(names, runs)]
    machines = [dict(_circumstances(run.record)) for run in runs]
    labels = dict.fromkeys(label for one in machines for label in one)
    rows = [[label, *(one.get(label, "") for one in machines)] for label in labels]
    body += ["<h2>Machines and code</h2>", page.table(("", *names), rows)]
    return page.page("Training runs side by side", body)


def _chart(name: str, lines: Sequence[Line]) -> str:
    return page.chart(name, lines, noisy=not name.startswith(RATE))


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """The folders' own names; the paths as given where two are alike."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _differences(names: Sequence[str], runs: Sequence[RunFolder]) -> str:
    settings = [run.settings for run in runs]
    fields = dict.fromkeys(field for one in settings for field in one)
    rows = [
        [field, *values]
        for field in fields
        if len(set(values := [page.written(one.get(field, "")) for one in settings])) > 1
    ]
    return page.table(("field", *names), rows) if rows else "<p>They are the same.</p>"


def _numbers(run: RunFolder) -> dict[str, str]:
    """What is seen first of a run, in words."""
    found = {"steps": str(run.steps)}
    for name, points in SECTIONS["Curves"](run).items():
        if not name.startswith(RATE):
            found[name.replace("_", " ")] = short(points[-1][1])
    if seconds := run.speeds.get("seconds"):
        found["time of training"] = _duration(seconds[-1][1])
    if steps := run.speeds.get("seconds_a_step"):
        found["seconds a step, median"] = short(_median(steps))
    if frames := run.speeds.get("frames_a_second"):
        found["frames a second, median"] = short(_median(frames))
    if memory := run.speeds.get("memory_gib"):
        found["peak memory"] = f"{short(memory[-1][1])} GiB"
    return found


def _median(points: Points) -> float:
    values = sorted(value for _, value in points)
    return values[len(values) // 2]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _words(record: Mapping[str, Any]) -> str:
    """The line below the title: the recipe, and what it ran on."""
    machine = record.get("hardware", {})
    found = [str(record.get("recipe", "")), str(machine.get("gpu") or machine.get("device", ""))]
    return " · ".join(one for one in found if one)


def _circumstances(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Machine, code and command of a run, and from where it was resumed."""
    rows = [(name, str(value)) for name, value in record.get("hardware", {}).items()]
    rows += [(name, str(record[name])) for name in ("code", "python", "torch") if name in record]
    if command := record.get("command"):
        words = [Path(command[0]).name, *command[1:]] if isinstance(command, list) else [command]
        rows.append(("command", shlex.join(map(str, words))))
    rows += [("quantized layers", str(line)) for line in record.get("backends", [])]
    for resumed in record.get("resumed", []):
        rows.append(("resumed at step", str(resumed.get("step"))))
    return rows


def _prompts(run: RunFolder) -> Sequence[str]:
    """What the samples of a run were asked to show."""
    prompts: Sequence[str] = run.record["config"].get("sample_prompts", ())
    return prompts


def _chosen(sheets: Sequence[Sheet]) -> list[Sheet]:
    """The newest first, then earlier ones, evenly."""
    places = thinned([(place, 0.0) for place in range(len(sheets))], MOST_SHEETS)
    return [sheets[place] for place, _ in reversed(places)]
