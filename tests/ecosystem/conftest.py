"""Foreign models, made once; a test copies what it changes."""

from pathlib import Path

import pytest
from torch import nn

from tests.ecosystem.foreign import MODELS, Foreign

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every model in one format and one model in every format: the other pairs are slow.

    Warnings that other libraries give about themselves are not ours to mend.
    """
    for item in items:
        if HERE in item.path.parents:
            given = vars(item)["callspec"].params if "callspec" in vars(item) else {}
            format = given["convert"].__name__ if "convert" in given else "w4a16"
            if "foreign" in given and given["foreign"] != "Wan" and format != "w4a16":
                item.add_marker(pytest.mark.slow)
            for kind in ("DeprecationWarning", "FutureWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


@pytest.fixture(scope="session")
def plain_models() -> dict[str, nn.Module]:
    return {name: foreign.built() for name, foreign in MODELS.items()}


@pytest.fixture(params=MODELS)
def foreign(request: pytest.FixtureRequest) -> Foreign:
    return MODELS[request.param]


@pytest.fixture
def plain(foreign: Foreign, plain_models: dict[str, nn.Module]) -> nn.Module:
    """The model of ``foreign``, to look at and to copy."""
    return next(model for name, model in plain_models.items() if MODELS[name] is foreign)
