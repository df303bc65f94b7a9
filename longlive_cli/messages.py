"""Printing: results go to standard output, everything else to standard error.

All output passes through here, so that no character of a file name, a prompt or another program's
message can move a terminal's cursor.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unicodedata import category

import typer

MOST_OF_A_WORD, MOST_OF_A_MESSAGE = 160, 1200
WIDTH = 100
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's kinds of letters that a terminal obeys, hides, or ends a line at."""
_KEPT = "\n\t\u200c\u200d"
"""Of these, what text needs: lines, and what joins or parts the letters of some scripts."""


def plain(text: str) -> str:
    """Text that is safe for a terminal: control characters are escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(letter) if category(letter) in _OBEYED and letter not in _KEPT else letter
        for letter in text
    )


def in_one_line(text: str) -> str:
    """A message as one line, shortened in the middle: its end, which says the way out, is kept."""
    words = [_shortened(word, MOST_OF_A_WORD) for word in plain(" ".join(text.split())).split()]
    return _shortened(" ".join(words), MOST_OF_A_MESSAGE)


def say(text: str) -> None:
    """Print a result to standard output; an OSError gets a note that this failed."""
    try:
        typer.echo(plain(text))
    except OSError as error:
        error.add_note("What was to be printed could not be.")
        raise


def note(text: str) -> None:
    """Print to standard error; errors in doing so are ignored, as it may be closed."""
    try:
        typer.echo(plain(text), err=True)
    except OSError:
        return  # standard error is closed or full: there is nowhere left to say so


class _Once:
    """Tells each line once; within another one, only what that one has not told."""

    def __init__(self, tell: Callable[[str], None], outer: object) -> None:
        self._tell = tell
        self.said: set[str] = set(outer.said) if isinstance(outer, _Once) else set()

    def __call__(self, message: Warning | str, *rest: Any, **more: Any) -> None:
        line = in_one_line(str(message))
        if line not in self.said:
            self.said.add(line)
            self._tell(line)


@contextmanager
def warnings_are_lines(tell: Callable[[str], None]) -> Iterator[None]:
    """Hand Python's warnings to ``tell`` as one line each, the same one once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = _Once(tell, warnings.showwarning)
        yield


@contextmanager
def log_is_lines(tell: Callable[[str], None]) -> Iterator[None]:
    """Hand what recipes log of their work, and have to say about it, to ``tell``, a line each."""
    import logging  # it takes milliseconds, and most commands log nothing

    class Lines(logging.Handler):
        """One line a record."""

        def emit(self, record: logging.LogRecord) -> None:
            tell(in_one_line(record.getMessage()))

    log, lines = logging.getLogger("longlive_recipes"), Lines()
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(before)


@contextmanager
def spinning(text: str) -> Iterator[None]:
    """A line on a terminal's standard error that says what is waited for, and is gone afterwards.

    Elsewhere nothing is written: a command that is refused says one sentence.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(plain(text)):
        yield


@contextmanager
def counting(text: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal while the block runs, and no trace of it elsewhere.

    The block is given what moves it: how many parts are done, how many there are at least, and the
    name of the one at hand.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=max(done, total), description=name
        )


def show(value: Any, *, as_json: bool) -> None:
    """Print a config or a plan: YAML for people, one JSON line for programs."""
    from longlive_recipes.run_record import as_plain

    values = as_plain(value)
    if as_json:
        say(json.dumps(values))
        return
    say(_as_yaml(values))


def _as_yaml(values: Any) -> str:
    """YAML with a field a line; a list of plain values is folded into as few lines as it takes."""
    import yaml

    class Folding(yaml.SafeDumper):
        """Lists of plain values in brackets, at the width of a terminal."""

    def fold(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
        inside = any(isinstance(value, list | dict) for value in values)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=not inside)

    Folding.add_representer(list, fold)
    text = yaml.dump(values, Dumper=Folding, sort_keys=False, allow_unicode=True, width=WIDTH)
    return str(text).rstrip()


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 3]}...{text[-end:]}"
