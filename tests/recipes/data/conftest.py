"""A VAE that takes a moment to make, for all tests of clips."""

import pytest

from tests.recipes.tiny_runs import write_tiny_vae


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("data") / "vae")
