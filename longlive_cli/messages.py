"""How the command line speaks: results on standard output, everything else on standard error."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

BAD_INPUT = 2
INTERRUPTED = 130


def note(text: str) -> None:
    """Say something that is not a result."""
    typer.echo(text, err=True)


@contextmanager
def bad_input_is_one_sentence() -> Iterator[None]:
    """Turn what a caller can mend into one line and exit status 2; nothing has been written yet."""
    from longlive_core.backends import BackendUnavailable

    try:
        yield
    except (ValueError, BackendUnavailable) as error:
        note(f"longlive: {' '.join(str(error).split())}")
        raise typer.Exit(BAD_INPUT) from error
    except OSError as error:
        reason = error.strerror or str(error)
        note(f"longlive: {error.filename}: {reason}." if error.filename else f"longlive: {reason}.")
        raise typer.Exit(BAD_INPUT) from error


def show(value: Any, *, as_json: bool) -> None:
    """Print a config or a plan: YAML for people, one JSON line for programs."""
    from longlive_recipes.run_record import as_plain

    plain = as_plain(value)
    if as_json:
        typer.echo(json.dumps(plain))
        return
    import yaml

    typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip())
