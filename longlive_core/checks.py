"""What a caller gave: of the right kind, numbers finite and within bounds, or refused in words.

Used where a dataclass is made and where a public function begins, so that a wrong value is named
before any work is done. NumPy's numbers and tensors of one element count as numbers.
"""

import math
import operator
from typing import Any

QUALITIES = ("lossless", "high")
"""What fast paths may do: give what the plain path gives, or round more, by a stated amount."""

MOST = 2**63 - 1
"""The largest whole number where no smaller bound is given: what tensors and files can count."""


def whole(
    name: str,
    value: Any,
    *,
    why: str,
    at_least: int | None = None,
    at_most: int | None = None,
) -> int:
    """``value`` as an int, if it is a whole number within the bounds; both bounds are included.

    ``at_most`` is 2**63 - 1 unless given.

    Args:
        name: what the caller knows the value by: an argument, a field, an option.
        value: an int, a NumPy integer or an integer tensor of one element; no bool, no float.
        why: what the number means and the way out, as whole sentences; ends the message.

    Raises:
        ValueError: another type, or a number outside the bounds.
    """
    number = None
    if not _is_bool(value):
        try:
            number = operator.index(value)
        except (TypeError, ValueError, RuntimeError):
            number = None
    if number is None:
        raise ValueError(f"{name} is a whole number, got {shown(value)}: {why}")
    _check_bounds(name, number, at_least, MOST if at_most is None else at_most, why)
    return number


def real(
    name: str,
    value: Any,
    *,
    why: str,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> float:
    """``value`` as a float, if it is a finite number within the bounds.

    Args:
        name: what the caller knows the value by.
        value: an int, a float, a NumPy number or a tensor of one element; no bool, no text.
        why: what the number means and the way out, as whole sentences; ends the message.
        above: a bound that is not included itself.
        at_least, at_most: bounds that are included.

    Raises:
        ValueError: another type, NaN, an infinity, or a number outside the bounds.
    """
    number = None
    if not _is_bool(value) and not isinstance(value, str | bytes | bytearray):
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = None
    if number is None or not math.isfinite(number):
        raise ValueError(f"{name} is a finite number, got {shown(value)}: {why}")
    if above is not None and number <= above:
        raise ValueError(f"{name} is above {_bound(above)}, got {shown(value)}: {why}")
    _check_bounds(name, number, at_least, at_most, why)
    return number


def switch(name: str, value: Any, *, why: str) -> None:
    """Raise ``ValueError`` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, got {shown(value)}: {why}")


def text(name: str, value: Any, *, why: str) -> None:
    """Raise ``ValueError`` unless ``value`` is a string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is a string, got {shown(value)}: {why}")


def known_quality(name: str, value: Any) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``QUALITIES``."""
    if value not in QUALITIES:
        raise ValueError(
            f"{name} is {' or '.join(map(repr, QUALITIES))}, got {shown(value)}: it is what 'auto' "
            f"may take. 'lossless' gives what the plain path gives, 'high' rounds more."
        )


def instance(name: str, value: Any, *kinds: type, why: str) -> None:
    """Raise ``ValueError`` unless ``value`` is of one of these classes or protocols."""
    if not isinstance(value, kinds):
        known = " or a ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} is a {known}, got {shown(value)}: {why}")


def function(name: str, value: Any, *, why: str) -> None:
    """Raise ``ValueError`` unless ``value`` can be called."""
    if not callable(value):
        raise ValueError(f"{name} is a function, got {shown(value)}: {why}")


def hold_wholes(
    made: Any,
    names: str,
    *,
    why: str,
    at_least: int | None = None,
    at_most: int | None = None,
) -> None:
    """Hold fields of a dataclass that is being made to whole numbers; they are ints afterwards.

    ``names`` has spaces between, as in ``"width height"``; so have those of the other two.

    Raises:
        ValueError: as ``whole``; it calls a field by its class and its name.
    """
    for name in names.split():
        field = f"{type(made).__name__}.{name}"
        number = whole(field, getattr(made, name), why=why, at_least=at_least, at_most=at_most)
        object.__setattr__(made, name, number)  # the dataclass may be frozen


def hold_reals(
    made: Any,
    names: str,
    *,
    why: str,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Hold fields of a dataclass that is being made to finite numbers; their type stays.

    Raises:
        ValueError: as ``real``; it calls a field by its class and its name.
    """
    for name in names.split():
        real(
            f"{type(made).__name__}.{name}",
            getattr(made, name),
            why=why,
            above=above,
            at_least=at_least,
            at_most=at_most,
        )


def hold_switches(made: Any, names: str, *, why: str) -> None:
    """Hold fields of a dataclass that is being made to True or False. Raises ValueError."""
    for name in names.split():
        switch(f"{type(made).__name__}.{name}", getattr(made, name), why=why)


def shown(value: Any, most: int = 60) -> str:
    """A value as an error message shows it: its repr, shortened, on one line."""
    if isinstance(value, int) and not _is_bool(value) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _check_bounds(
    name: str, number: float, at_least: float | None, at_most: float | None, why: str
) -> None:
    if at_least is not None and number < at_least:
        raise ValueError(f"{name} is at least {_bound(at_least)}, got {shown(number)}: {why}")
    if at_most is not None and number > at_most:
        raise ValueError(f"{name} is at most {_bound(at_most)}, got {shown(number)}: {why}")


def _bound(number: float) -> str:
    """A bound as a message shows it: a whole one with all its digits, as far as it has any."""
    exact = isinstance(number, int) or (number.is_integer() and abs(number) <= 2**53)
    return str(int(number)) if exact else f"{number:g}"


def _is_bool(value: Any) -> bool:
    """Whether it is True or False, of Python, NumPy or torch: no number, though they add up."""
    typed = hasattr(value, "dtype")
    return isinstance(value, bool) or (typed and str(value.dtype) in ("bool", "torch.bool"))
