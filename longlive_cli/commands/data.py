"""`longlive data`: clips of one's own, looked at and prepared for training."""

import json
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from longlive_cli import complete
from longlive_cli.explain import Explained
from longlive_cli.launcher import check_ranks
from longlive_cli.messages import note, say
from longlive_cli.options import file_name
from longlive_recipes.generation.interrupts import Stoppable

data = typer.Typer(
    help="Look at clips of your own, and prepare them for training.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Place = Annotated[
    Path,
    typer.Argument(
        parser=file_name,
        metavar="FOLDER",
        help="Videos with a .txt of the same name beside each; or a .jsonl or .csv of paths, "
        "captions and times; or video/STORY/1.mp4 with caption/STORY/1.json.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="Whose VAE encodes, at its size and rate: a shipped model's name, a model folder, or "
        "the folder of a VAE.",
        autocompletion=complete.among("pocket"),
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="<WIDTHxHEIGHT>",
        help="Pixels of the frames; videos are scaled and cropped in the middle.  "
        "[default: the model's]",
    ),
]
Rate = Annotated[
    float | None, typer.Option("--fps", help="Frames a second.  [default: the model's]")
]
Blocks = Annotated[
    int, typer.Option(help="The most blocks of a clip; longer videos become several clips.")
]
Device = Annotated[
    str,
    typer.Option(
        help="What the VAE runs on: auto, cpu, cuda, ...",
        autocompletion=complete.among(*complete.DEVICES),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON line instead of text.")]


@data.command(name="prepare", cls=Explained)
def prepare_data(
    folder: Place,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=file_name,
            metavar="CACHE",
            help="The folder of the cache; one of the same clips is gone on with.",
        ),
    ],
    model: Model = "pocket",
    size: Size = None,
    fps: Rate = None,
    blocks: Blocks = 6,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Encode clips of your own once, for `longlive train RECIPE --data CACHE`."""
    check_ranks(1)
    from longlive_recipes.data.layouts import find_sources
    from longlive_recipes.generation.outputs import check_writable

    wanted = _config(model, size, fps, blocks, device)
    found = find_sources(folder)
    _check_cache(output)
    check_writable(output, "output")

    from longlive_recipes.data.prepare import prepare
    from longlive_recipes.run_record import as_plain

    with Stoppable(), _Bar() as bar:
        result = prepare(
            wanted,
            found,
            output,
            progress=bar.of("encoding blocks"),
            looked=bar.of("looking"),
            texts=bar.of("encoding captions"),
        )
    if as_json:
        say(json.dumps(as_plain(result)))
        return
    for one in result.skipped:
        note(f"longlive: left out {one.name}: {one.reason}")
    lengths = ", ".join(f"{count} of {n} blocks" for n, count in result.by_blocks.items())
    gone = f", {result.dropped} of before are gone" if result.dropped else ""
    say(
        f"{result.folder}: {result.clips} clips ({lengths}), {result.new} new{gone}, "
        f"{len(result.skipped)} left out, {_bytes(result.bytes)}, in {_duration(result.seconds)}"
    )


@data.command(name="check", cls=Explained)
def check_data(
    folder: Place,
    model: Model = "pocket",
    size: Size = None,
    fps: Rate = None,
    blocks: Blocks = 6,
    device: Device = "auto",
    sheet: Annotated[
        Path | None,
        typer.Option(
            parser=file_name,
            metavar="FILE",
            help="Write a png of first frames here, as the model gets them.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with clips of your own, and what preparing them will take."""
    check_ranks(1)
    from longlive_recipes.data.layouts import find_sources

    wanted = _config(model, size, fps, blocks, device)
    if sheet is not None:
        _check_sheet(sheet)
    found = find_sources(folder)

    from longlive_recipes.data.check import check
    from longlive_recipes.run_record import as_plain

    with Stoppable(), _Bar() as bar:
        result = check(wanted, found, sheet=sheet, looked=bar.of("looking"))
    say(json.dumps(as_plain(result)) if as_json else summary(result))


def summary(result: Any) -> str:
    """What `longlive data check` found, as text for people, with a line for each finding."""
    lengths = ", ".join(f"{count} of {n} blocks" for n, count in result.clips.items())
    lines = [
        f"{result.place}: {result.videos} videos can be used, {len(result.skipped)} cannot "
        f"(layout: {result.layout})",
        *(f"  left out {one.name}: {one.reason}" for one in result.skipped),
        f"clips: {sum(result.clips.values())} ({lengths}), {_duration(result.used)} of "
        f"{_duration(result.seconds)}",
        *_near_misses(result.near),
        f"captions: {result.words} different words, {result.longest_caption} in the longest",
        f"preparing: {_bytes(result.bytes)} of disk, about {_duration(3600 * result.hours)} on "
        f"{result.device}",
    ]
    return "\n".join(lines if result.sheet is None else [*lines, f"sheet: {result.sheet}"])


def _near_misses(near: Any) -> list[str]:
    """A line about what lacks a few frames for another block, if anything does."""
    if not near:
        return []
    from longlive_core.names import few

    shots = "1 shot lacks" if len(near) == 1 else f"{len(near)} shots lack"
    named = few([f"{one.name} {one.frames}" for one in near])
    return [
        f"near misses: {shots} a few frames for another block, and the block's other frames are "
        f"not used: {named}"
    ]


def _config(model: str, size: str | None, fps: float | None, blocks: int, device: str) -> Any:
    from longlive_recipes.configs.prepare_data import PrepareData

    sides = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size or "")
    if size is not None and sides is None:
        raise ValueError(f"--size is WIDTHxHEIGHT in pixels, got {size!r}. Write 128x128, say.")
    width, height = map(int, sides.groups()) if sides else (None, None)
    return PrepareData(
        model=model, height=height, width=width, fps=fps, blocks=blocks, device=device
    )


def _check_cache(output: Path) -> None:
    """Raise ValueError if ``output`` holds files of something other than a cache of clips."""
    from longlive_recipes.data.cache_index import INDEX, read_index

    if (output / INDEX).is_file():
        read_index(output)
    elif output.exists() and (not output.is_dir() or any(output.glob("[!.]*.json"))):
        raise ValueError(
            f"{output} exists and is no cache of clips: it would be mixed with one. Name another "
            f"folder with --output."
        )


def _check_sheet(sheet: Path) -> None:
    from longlive_recipes.generation.outputs import check_writable

    if sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {sheet} is written as a png: name a file that ends in .png.")
    if sheet.exists() or sheet.is_symlink():
        raise ValueError(f"{sheet} exists: name another file with --sheet, or remove it.")
    check_writable(sheet, "sheet")


class _Bar:
    """Progress and time left on standard error: a bar on a terminal, else a line every 30 s."""

    EVERY = 30.0

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._drawn = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._drawn,
            transient=True,
        )

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def of(self, what: str) -> Any:
        """Make a callback for the work named ``what``, to be called with (done, total, name)."""
        task, began, said = None, time.monotonic(), time.monotonic()

        def tell(done: int, total: int, name: str) -> None:
            nonlocal task, began, said
            now = time.monotonic()
            if task is None:
                task, began = self._bar.add_task(what, total=total), now
            self._bar.update(task, completed=done, total=total)
            if not self._drawn and now - said >= self.EVERY:
                said = now
                left = (now - began) / done * (total - done) if done else None
                rest = "" if left is None else f", {_duration(left)} left"
                note(f"longlive: {what}: {done} of {total}{rest}")

        return tell


def _duration(seconds: float) -> str:
    """A duration in seconds as text, in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
