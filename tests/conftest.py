"""What holds for every test: hypothesis without deadlines, a seed, and no reliance on fresh memory."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("longlive", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("longlive")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Start every test from the same global random state."""
    torch.manual_seed(0)
    yield
