"""The OpenAPI document is kept: Schemathesis makes requests of it, and looks at every answer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.serve.servers import limits, server, until

CONFIG = """\
seed = 7
[generation]
max-examples = {examples}
[checks.positive_data_acceptance]
# what a document cannot say: characters of prompts, one of two fields, pictures, the queue's end
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 415, 429]
[checks.negative_data_rejection]
expected-statuses = ["4xx"]
"""


def hold(folder: Path, offers: object, phases: str, examples: int) -> None:
    """Let Schemathesis look for answers that the document does not have."""
    pytest.importorskip("schemathesis", reason="needs schemathesis (extra `contract`)")
    most = limits(sessions=4, seconds=4.0, steps=2, queue=2)
    with server(folder / "served", most, offers) as client:
        name = client.begin("a red circle")["id"]
        until(lambda: client.session(name)["blocks"])
        (folder / "schemathesis.toml").write_text(CONFIG.format(examples=examples))
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from schemathesis.cli import schemathesis as s; s()"),
                "run",
                *(f"{client.base_url}openapi.json", "--phases", phases, "--no-color"),
                *("--request-timeout", "30", "--suppress-health-check", "all"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        told = done.stdout[-6000:] + done.stderr[-2000:]
        assert done.returncode == 0, told
        assert re.search(r"(\d+) passed|No issues found", done.stdout), told
        assert client.get("/v1/server").status_code == 200


def test_the_document_describes_what_there_is(client):
    document = client.get("/openapi.json").json()
    paths = document["paths"]
    assert len(paths) >= 20 and "/" not in paths
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert operation["description"].endswith("."), (method, path)
            answers = operation["responses"]
            assert any(status.startswith("2") for status in answers)
            assert {"400", "401", "403"} <= set(answers), (method, path)
            assert "422" not in answers, (method, path)
    assert "bytes" in document["components"]["schemas"]["Session"]["properties"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path, offers):
    hold(tmp_path, offers, "examples,coverage,fuzzing", 25)
