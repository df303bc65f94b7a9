"""What the tests of training share."""

from collections.abc import Iterator

import pytest

from tests.processes import Ranks


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    """Two processes joined by gloo, which are all that there are: a job, to Lightning."""
    with Ranks(2) as two:
        yield two
