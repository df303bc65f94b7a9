"""How a benchmark says that a result is wrong; an `assert` would be left out under `python -O`."""


def require(right: bool, wrong: str) -> None:
    """Raise AssertionError with ``wrong`` unless ``right``."""
    if not right:
        raise AssertionError(wrong)
