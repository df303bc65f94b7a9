"""The exit status of commands, and the sentence that is printed if one failed.

======= ========================================================================================
status  what happened
======= ========================================================================================
0       it was done
1       it failed after something was written, which the message names; or by a mistake of ours
2       it was refused, or failed before anything was written
129-143 it was stopped: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP
======= ========================================================================================
"""

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from longlive_cli.launcher import is_first
from longlive_cli.messages import in_one_line, note, warnings_are_lines
from longlive_cli.positions import right_line
from longlive_cli.wrong_values import wrong_value

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 128 + signal.SIGINT
DEBUG = "--debug"
_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for words that it does not understand; click's own, or typer's copy of it."""


class Boundary(TyperGroup):
    """The group of all commands; a command ends with a status and at most one sentence.

    The sentence is the message of what a user can mend: a ValueError, a missing backend, an error
    of the operating system. A bug of this library is one sentence too, with the error's class;
    `--debug`, anywhere on the line, shows the traceback.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        _escape_what_cannot_be_encoded()
        words, debug = _without_debug(sys.argv[1:] if args is None else args)
        status = BAD_INPUT
        try:
            status = super().main(words, prog_name, complete_var, False, obj=debug, **extra) or 0
        except _USAGE as error:
            note(_usage(error, words))
        except typer.Abort:
            status = FAILED
        sys.exit(_flushed(status))

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            # ranks of one job meet the same warnings, so that one of them speaks
            first = is_first()
            with warnings_are_lines(lambda line: note(f"longlive: {line}") if first else None):
                return super().invoke(ctx)
        except (_USAGE, typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as error:
            status = ending(error)
            kept = list(vars(error).get("__notes__", ())) or ["nothing was written."]
            note(in_one_line(f"longlive: {name_of(status)}; {' '.join(kept)}"))
        except Exception as error:
            status = tell(error, debug=bool(ctx.obj))
        raise typer.Exit(status)


def tell(error: Exception, *, debug: bool) -> int:
    """Print an error as one sentence; returns the status that the process ends with."""
    if debug:
        note("".join(traceback.format_exception(error)))
    text, status = explained(error)
    kept = list(vars(error).get("__notes__", ()))  # what was written before that, and stays
    note(f"longlive: {in_one_line(' '.join([text, *kept]))}")
    return FAILED if kept and status == BAD_INPUT else status


def explained(error: Exception) -> tuple[str, int]:
    """The sentence and the status of an error."""
    if isinstance(error, BrokenPipeError):
        return "nobody reads what is printed any more.", 128 + signal.SIGPIPE
    if isinstance(error, UnicodeError):  # of our own reading or writing, whose message is codecs'
        return f"text that cannot be read or written: {error}.", BAD_INPUT
    if isinstance(error, ValueError):
        return str(error), BAD_INPUT
    if isinstance(error, OSError):
        return _system(error), BAD_INPUT
    if _is_out_of_memory(error):
        return (
            "there is not enough memory for this: make the picture, the batch or the model "
            "smaller, or keep weights and cache in fewer bits (--weights nvfp4 --kv-cache nvfp4).",
            BAD_INPUT,
        )
    if _is_of("longlive_core.backends", "BackendUnavailable", error):
        return str(error), BAD_INPUT
    return (
        f"internal error: {type(error).__name__}: {error}. This is a mistake of longlive, not "
        f"yours: run the same command with {DEBUG} to see where, and report it.",
        FAILED,
    )


def ending(error: KeyboardInterrupt) -> int:
    """The status of a process that a signal stopped."""
    return 128 + error.args[0] if error.args else INTERRUPTED


def name_of(status: int) -> str:
    """The words for a signal's status: "interrupted", or "stopped by SIGTERM"."""
    if status == INTERRUPTED:
        return "interrupted"
    return f"stopped by {signal.Signals(status - 128).name}"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: Python's, a GPU's, or torch's on the CPU."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or _is_of("torch", "OutOfMemoryError", error) or on_cpu


def _is_of(module: str, name: str, error: Exception) -> bool:
    """Whether an error is of a class of a module; False if the module is not imported."""
    return module in sys.modules and isinstance(error, vars(sys.modules[module])[name])


def _system(error: OSError) -> str:
    """The message of a system error, with the file's name and the way out, if known."""
    reason = error.strerror or str(error) or type(error).__name__
    advice = {
        errno.ENOSPC: "Make room, or write to another disk",
        errno.EDQUOT: "Make room, or write to another disk",
        errno.EFBIG: "Raise the limit on file sizes (ulimit -f), or make a shorter video",
        errno.EACCES: "Check the permissions, or name another place",
        errno.EROFS: "Name another place",
    }.get(error.errno or 0)
    place = f"{_named(error.filename)}: " if error.filename else ""
    return f"{place}{reason}." if advice is None else f"{place}{reason}. {advice}."


def _named(file: Any) -> str:
    return os.fsdecode(file) if isinstance(file, bytes) else str(file)


def _usage(error: Any, words: Sequence[str]) -> str:
    """The message of typer's usage error in one line; help that was asked for is kept as it is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return str(error.format_message())
    place = f" ({error.ctx.command_path} --help says more)" if error.ctx else ""
    line = right_line(error, words)
    text = wrong_value(error) or error.format_message()
    if line:
        text = f"{text.partition(' (Possible options')[0].rstrip('.')}; {line}"
    return f"longlive: {in_one_line(text)}{place}"


def _without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words of a command line without `--debug`, and whether it was there."""
    end = list(words).index("--") if "--" in words else len(words)
    before = [word for word in words[:end] if word != DEBUG]
    return [*before, *words[end:]], len(before) < end


def _escape_what_cannot_be_encoded() -> None:
    """Let standard output escape characters that its encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(status: int) -> int:
    """Flush what was printed; returns the status, or that of a failure to print."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except OSError as error:
        # else the interpreter would try again at its end, and fail in its own words
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        text, failed = explained(error)
        note(f"longlive: what was to be printed could not be: {in_one_line(text)}")
        return status or (failed if isinstance(error, BrokenPipeError) else FAILED)
