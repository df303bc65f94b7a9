"""A check of keys that a person wrote: unknown ones are refused, and the nearest one is named."""

from collections.abc import Iterable

from longlive_core.names import did_you_mean


def refuse_unknown_keys(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError if a key of ``given`` is not among ``known``.

    ``kind`` says in the message what has the keys, as "a shot".
    """
    names = tuple(known)
    for key in given:
        if key not in names:
            raise ValueError(
                f"{kind} has no key {key!r}{did_you_mean(str(key), names)}Its keys: "
                f"{', '.join(sorted(names))}."
            )
