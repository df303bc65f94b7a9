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

ROOT = Path(__file__).parent.parent
CORE = ROOT / "tests" / "core"


def checked_modules() -> Iterator[str]:
    """All but kernels: Triton reads a kernel's source, and finds its names in its own module.

    Packages are left out as well: the hook takes a name for all modules below it.
    """
    for package in ("longlive_core", "longlive_models"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.stem != "__init__" and path.parent.name != "kernels":
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


# Annotations are checked in what is imported from here on; an int is a float, as type checkers
# have it.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(list(checked_modules()), CHECKER)

settings.register_profile("longlive", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("longlive")


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
