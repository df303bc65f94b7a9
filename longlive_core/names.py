"""Names in messages: the nearest one that exists, and the first few of many. Needs no torch."""

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A clause for an error about an unknown name: ``"did you mean 'amax_6'? "``, or nothing.

    It ends with a space, so that the sentence that lists the names may follow; it is empty where
    ``name`` is no text, or where no known name resembles it.
    """
    near = difflib.get_close_matches(name, list(known), n=1) if isinstance(name, str) else []
    return f"did you mean {near[0]!r}? " if near else ""


def few(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` names, separated by commas, and how many there are besides."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
