"""The commands that a person types while a video is being made, and how lines are parsed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longlive_core.names import nearest

if TYPE_CHECKING:
    from longlive_models.stream import Stream

HELP = {
    "TEXT": "a new prompt from the next block on; the past is remembered as it was",
    "/recache TEXT": "a new prompt; what the next block sees of the past is encoded again under it",
    "/cut TEXT": "a new shot",
    "/forget TEXT": "a new shot that does not remember what was before it",
    "/snapshot FILE": "write down where the video stands: longlive generate --resume FILE",
    "/fork FILE [TEXT]": "a second ending, written to FILE beside this one",
    "/quit": "stop here",
    "/help": "these lines",
}
"""All commands, each with what it does."""

STEERING = ("keep", "recache", "cut", "forget")
_FILES = ("snapshot", "fork")
_ALONE = ("quit", "help")
_TIME = re.compile(r"@(\d+(?:\.\d+)?)s?\s+(.+)")


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        kind: a word of ``STEERING``, or "snapshot", "fork", "quit", "help".
        text: the prompt.
        file: the file to write.
        then: the command that steers a fork.
        at: seconds into the video; None for as soon as possible.
        line: which line it was, from 1; 0 for one that was in no list of lines.
    """

    kind: str
    text: str = ""
    file: Path | None = None
    then: "Command | None" = None
    at: float | None = None
    line: int = 0


def parse(line: str) -> Command | None:
    """Parse a line: a prompt or ``/name ...``, after ``@SECONDS`` if wanted; None if it is empty.

    Raises:
        ValueError: the name is unknown, or lacks a prompt or file.
    """
    line = line.strip()
    if not line:
        return None
    if line.startswith("@"):
        timed = _TIME.fullmatch(line)
        command = parse(timed[2]) if timed else None
        if timed is None or command is None or command.at is not None:
            raise ValueError(
                f"{line!r} is no command with a time: it says at how many seconds of the video "
                f"something is to be done. Write, say, '@4s a blue square'."
            )
        return replace(command, at=float(timed[1]))
    if not line.startswith("/"):
        return Command(kind="keep", text=line)
    name, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    if name in STEERING[1:]:
        return Command(kind=name, text=_needed(rest, name, "TEXT"))
    if name in _FILES:
        file, _, then = _needed(rest, name, "FILE").partition(" ")
        return Command(kind=name, file=Path(file), then=_turn(then, line) if then else None)
    if name in _ALONE and not rest:
        return Command(kind=name)
    names = (*STEERING[1:], *_FILES, *_ALONE)
    near = nearest(name, names)
    hint = f"; did you mean /{near}? " if near else ". "
    raise ValueError(f"{line!r} is no command{hint}There are {', '.join(HELP)}.")


def check_script(lines: Iterable[str]) -> None:
    """Raise ValueError, with its number, for the first of these lines that is no command."""
    for number, line in enumerate(lines, 1):
        try:
            parse(line)
        except ValueError as error:
            raise in_line(number, error) from error


def in_line(number: int, error: Exception) -> ValueError:
    """The error of a line of a script, with the line's number."""
    return ValueError(f"line {number} of the input: {' '.join(str(error).split())}")


def parse_ending(text: str) -> Command:
    """Parse a command that steers: a prompt, /recache, /cut or /forget; else a ValueError."""
    return _turn(text, text)


def steer(stream: "Stream", command: Command) -> dict[str, Any]:
    """Steer a stream by a command of ``STEERING``; returns the event.

    Raises:
        ValueError: the stream refuses it, for instance because the time is past.
    """
    at = "next" if command.at is None else command.at
    if command.kind in ("cut", "forget"):
        return stream.cut(command.text, at=at, forget=command.kind == "forget")
    return stream.prompt(command.text, at=at, memory=command.kind)


def _needed(rest: str, name: str, what: str) -> str:
    if not rest:
        raise ValueError(f"/{name} needs {what} behind it: {HELP[_usage(name)]}.")
    return rest


def _usage(name: str) -> str:
    return next(usage for usage in HELP if usage.startswith(f"/{name} "))


def _turn(text: str, line: str) -> Command:
    command = parse(text)
    if command is None or command.kind not in STEERING or command.at is not None:
        raise ValueError(
            f"{line!r}: an ending begins with a prompt, or with /recache, /cut or /forget and one, "
            f"got {text!r}. Write, say, '/cut a blue square'."
        )
    return command
