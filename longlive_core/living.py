"""Objects that operations of a compiled graph find by a number.

A graph holds tensors and numbers, and no Python object. A cache or a communicator therefore gets a
number when it is made, which travels in a tensor: one graph serves every one of them, for what
differs between them is a value, not a part of the code. Nothing is kept alive by its number.
"""

import itertools
import weakref
from typing import Any

_numbers = itertools.count()
_living: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def number_of(made: object) -> int:
    """A number of its own for an object that has just been made."""
    number = next(_numbers)
    _living[number] = made
    return number


def living(number: int, what: str) -> Any:
    """The object of this number. Raises ``ValueError`` if nothing holds it any longer."""
    found = _living.get(number)
    if found is None:
        raise ValueError(
            f"compiled code asks for {what} that is gone: a graph keeps none alive. Hold the "
            f"object for as long as the compiled code runs."
        )
    return found
