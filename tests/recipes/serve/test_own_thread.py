"""Work on threads that end: their answers and errors come back, and no worker of theirs stays."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from longlive_recipes.serve import server as servers
from longlive_recipes.serve.offers import Offers
from longlive_recipes.serve.own_thread import aside, begin
from longlive_recipes.serve.workshop import Workshop
from tests.recipes.serve.servers import config_of, server, until

PROMPT = "a red circle"


def test_answers_and_errors_come_back():
    here = threading.get_ident()
    assert begin(threading.get_ident).result(5) != here
    with pytest.raises(ZeroDivisionError):
        begin(lambda: 1 // 0).result(5)
    assert asyncio.run(aside(lambda one, *, other: one + other, 1, other=2)) == 3
    with pytest.raises(ValueError, match="nothing"):
        asyncio.run(aside(int, "nothing"))
    until(lambda: not [one for one in threading.enumerate() if one.name == "longlive-work"])


TEAMS = """
import os, torch
from longlive_recipes.serve.own_thread import begin
torch.set_num_threads(2)
def tasks():
    return len(os.listdir("/proc/self/task"))
def compute():
    x = torch.ones(200_000)
    torch.add(x, x, out=x)
    return tasks()
before, within = tasks(), []
for _ in range(3):
    within.append(begin(compute).result())
    while tasks() > before:
        pass
print(before, *within)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to count threads")
def test_workers_of_a_product_end_with_its_thread():
    done = subprocess.run(
        [sys.executable, "-c", TEAMS],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    before, *within = map(int, done.stdout.split())
    assert [count - before for count in within] == [2, 2, 2]  # that thread, and its worker


@pytest.fixture
def threads(monkeypatch):
    """The threads on which models are loaded and videos are planned."""
    found: list[threading.Thread] = []

    def noted(owner, name):
        function = getattr(owner, name)

        def note(*args, **more):
            found.append(threading.current_thread())
            return function(*args, **more)

        monkeypatch.setattr(owner, name, note)

    noted(Workshop, "planned")
    noted(Workshop, "forked")
    noted(Workshop, "recorded")
    yield found


def test_no_thread_that_stays_plans_a_video(threads, tmp_path, offers):
    with server(tmp_path / "served", offers=offers) as client:
        name = client.begin(PROMPT)["id"]
        client.block(name, 3)
        client.do(name, "fork", 201, block=3)
        client.do(name, "close")
        record = client.get(f"/v1/sessions/{name}/record").json()
        client.said(client.post("/v1/sessions/replay", json={"record": record}), 201)
        assert len(threads) == 3
        until(lambda: not any(thread.is_alive() for thread in threads))


def test_a_model_is_loaded_on_a_thread_that_ends(monkeypatch, tmp_path):
    loaded: list[threading.Thread] = []

    def load(config):
        loaded.append(threading.current_thread())
        raise ValueError("no such model")

    monkeypatch.setattr(Offers, "load", load)
    with (
        servers.listen(config := config_of(tmp_path / "served")) as opened,
        pytest.raises(ValueError, match="no such model"),
    ):
        servers.serve(config, opened, lambda: None)
    assert loaded[0] is not threading.current_thread()
    until(lambda: not loaded[0].is_alive())
