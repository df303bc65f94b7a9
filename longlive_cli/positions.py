"""What to type instead, where a word has a name that it needs none for, or lacks one it needs.

Commands name alike things alike, but some take a model, a recipe or a prompt by its position and
others by an option. The words of the other kind are told with the right line; a field of a config
is told with `--set`.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SHIPPED = ("pocket", "LongLive-2.0-5B")
"""Models that have a name."""


def right_line(error: Any, words: Sequence[str]) -> str:
    """A sentence with the line to type instead; nothing where none is known.

    Args:
        error: typer's usage error.
        words: the command line, without the program's name.
    """
    if error.ctx is None:
        return ""
    if type(error).__name__ == "NoSuchOption":
        return _without_a_name(error.ctx, error.option_name, words)
    if "unexpected extra argument" in error.format_message():
        return _with_a_name(error, words)
    return ""


def _without_a_name(ctx: Any, option: str, words: Sequence[str]) -> str:
    """For an option that is an argument, or a field, of this command."""
    command, name = ctx.command, option.lstrip("-").replace("-", "_")
    value, others = _taken_out(option, words)
    for argument in _of_kind(command, "argument"):
        if name.rstrip("s") in (_known_as(argument).rstrip("s"), argument.name.rstrip("s")):
            line = shlex.join(["longlive", *others, name.upper() if value is None else value])
            return f"{command.name} takes its {name} by position: {line}"
    if value is not None and any("--set" in one.opts for one in _of_kind(command, "option")):
        return f"fields of its config are set by --set, as in --set {name}={shlex.quote(value)}"
    return ""


def _with_a_name(error: Any, words: Sequence[str]) -> str:
    """For words that are more than this command takes by position."""
    command = error.ctx.command
    arguments = [one.name for one in _of_kind(command, "argument")]
    extra = error.format_message().partition("(s) (")[2].rstrip(")").split()
    models = [one for one in extra if not arguments or one in SHIPPED or Path(one).is_dir()]
    if models and any("--model" in one.opts for one in _of_kind(command, "option")):
        others = list(words)
        if models[-1] in others:
            others.remove(models[-1])
        line = shlex.join(["longlive", *others, "--model", models[-1]])
        return f"{command.name} takes a model by its option: {line}"
    if arguments == ["prompt"]:
        return "a prompt of several words stands in quotes"
    return ""


def _of_kind(command: Any, kind: str) -> Iterator[Any]:
    return (one for one in command.params if one.param_type_name == kind)


def _known_as(argument: Any) -> str:
    """The name of an argument in a command's help."""
    return str(argument.metavar or argument.name).lower()


def _taken_out(option: str, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of an option, if it has one, and the other words of the line."""
    for place, word in enumerate(words):
        name, joined, value = word.partition("=")
        if name != option:
            continue
        before, after = list(words[:place]), list(words[place + 1 :])
        if joined:
            return value, before + after
        if after and not after[0].startswith("-"):
            return after[0], before + after[1:]
        return None, before + after
    return None, list(words)
