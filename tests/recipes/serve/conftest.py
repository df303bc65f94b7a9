"""One server for the tests of a file, and the tiny model for all of them."""

from collections.abc import Iterator

import pytest

from longlive_recipes.serve.offers import Offers
from tests.recipes.serve.servers import Client, server, tiny_offers


@pytest.fixture(scope="session")
def offers(tmp_path_factory: pytest.TempPathFactory) -> Offers:
    """The tiny model, loaded once."""
    return tiny_offers(tmp_path_factory.mktemp("offers") / "served")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, offers: Offers) -> Iterator[Client]:
    """A client of a server that the tests of a file share; sessions are closed after each."""
    with server(tmp_path_factory.mktemp("server") / "served", offers=offers) as client:
        yield client


@pytest.fixture(autouse=True)
def no_session_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a test has left open on the shared server."""
    yield
    if "client" in request.fixturenames:
        shared: Client = request.getfixturevalue("client")
        for session in shared.get("/v1/sessions").json()["data"]:
            shared.delete(f"/v1/sessions/{session['id']}")
