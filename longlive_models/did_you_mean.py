"""Unknown keys in what a person wrote: refused, with the nearest name that exists."""

import difflib
from collections.abc import Iterable


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
