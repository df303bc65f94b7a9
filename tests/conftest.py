"""What holds for every test: checked shapes, no deadlines, one seed, fresh memory that is NaN."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from tests.processes import Ranks

# Annotations are checked in what is imported from here on; an int is a float, as type checkers
# have it.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["longlive_core", "longlive_models"], CHECKER)

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
    from longlive_core.testing import nan_filled_empty

    with nan_filled_empty() if CORE in request.path.parents else nullcontext():
        yield


@pytest.fixture(scope="session")
def ranks() -> Iterator["Ranks"]:
    """Four processes joined by gloo, started when first called: `tests/processes.py`."""
    from tests.processes import Ranks

    with Ranks(4) as four:
        yield four
