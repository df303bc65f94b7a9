"""Names in messages: an unknown key with the nearest that exists, and the first few of many."""

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 5
"""How many of many names a message lists."""


def refuse_unknown_keys(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError if a key of ``given`` is not among ``known``; ``kind`` names the holder."""
    names = tuple(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{kind} has no key {key!r}; {hint}Its keys: {', '.join(sorted(names))}."
            )


def few(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first of many names, and how many more there are: ``a, b, c and 4 more``."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
