"""What holds for every test: no hypothesis deadlines, one seed, and fresh memory that is NaN."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from longlive_core.testing import nan_filled_empty

settings.register_profile("longlive", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("longlive")

CORE = Path(__file__).parent / "core"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same global random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill what the primitives leave unwritten with NaN, so that reading it fails."""
    with nan_filled_empty() if CORE in request.path.parents else nullcontext():
        yield
