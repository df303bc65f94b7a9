"""Names in messages: the nearest one that exists, and the first few of many. Needs no torch."""

from collections.abc import Iterable, Sequence


def nearest(name: object, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The known name that resembles ``name`` most; None if none does, or ``name`` is no text.

    Args:
        likeness: how alike they must be, from 0 to 1, as ``difflib`` measures it.
    """
    if not isinstance(name, str):
        return None
    import difflib  # commands look at names before they are slow

    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What ends a sentence about an unknown name: ``"; did you mean 'amax_6'? "``, or ``". "``.

    It ends with a space, so that the sentence that lists the names may follow.
    """
    near = nearest(name, known)
    return ". " if near is None else f"; did you mean {near!r}? "


def few(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` names, separated by commas, and how many there are besides."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
