"""Servers for tests: one in a thread of this process, or `longlive serve` as a process."""

import asyncio
import hashlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from longlive_models.video.files import VideoWriter
from longlive_models.video.fragments import FragmentIndex
from longlive_recipes.configs.serve import Limits, Serve
from longlive_recipes.serve.offers import Offers
from longlive_recipes.serve.server import address_of, answer, listen
from tests.models.tiny_pipeline import FPS, tiny_pipeline, write_tiny_folder

JSON = {"content-type": "application/json"}
LIMITS = Limits(sessions=4, seconds=60.0, snapshot_every=2, snapshot_mb=64, queue=3)


class Client(httpx.Client):
    """A client that knows what tests ask for again and again."""

    def begin(self, prompt: str = "a red circle", **fields: Any) -> dict[str, Any]:
        """A new session."""
        return self.said(self.post("/v1/sessions", json={"prompt": prompt, **fields}), 201)

    def block(self, name: str, block: int, wait: float = 30) -> bytes:
        """The bytes of a block."""
        got = self.get(f"/v1/sessions/{name}/blocks/{block}", params={"wait": wait})
        assert got.status_code == 200, (got.status_code, got.text)
        return got.content

    def session(self, name: str) -> dict[str, Any]:
        return self.said(self.get(f"/v1/sessions/{name}"))

    def do(self, name: str, what: str, status: int = 200, **fields: Any) -> dict[str, Any]:
        """Carry out what a session can do."""
        return self.said(self.post(f"/v1/sessions/{name}/{what}", json=fields), status)

    def said(self, got: httpx.Response, status: int = 200) -> dict[str, Any]:
        assert got.status_code == status, (got.status_code, got.text)
        answer: dict[str, Any] = got.json()
        return answer


def client_of(address: str, token: str | None = None) -> Client:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return Client(base_url=address, timeout=60, headers=headers)


def config_of(folder: Path, limits: Limits = LIMITS, **fields: Any) -> Serve:
    model = folder.parent / "model"
    if not model.is_dir():
        write_tiny_folder(model)
    fields = {"port": 0, "model": str(model), "device": "cpu", "limits": limits, **fields}
    return Serve(folder=folder, **fields)


class Server:
    """A server in a thread of this process."""

    def __init__(self, config: Serve, offers: Offers | None = None) -> None:
        self.config = config
        self._offers = Offers.load(config) if offers is None else offers
        self.address = ""
        self._told: queue.Queue[BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Server":
        self._thread.start()
        error = self._told.get(timeout=60)
        if error is not None:
            raise error
        return self

    def __exit__(self, *rest: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not end"
        ended = self._told.get(timeout=1)
        if ended is not None:
            raise ended

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._told.put(error)
        else:
            self._told.put(None)

    async def _main(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        with listen(self.config) as opened:
            self.address = address_of(self.config, opened)
            await answer(
                self.config, opened, self._offers, lambda: self._told.put(None), self._ending
            )


@contextmanager
def server(
    folder: Path, limits: Limits = LIMITS, offers: Offers | None = None, **fields: Any
) -> Iterator[Client]:
    """A client of a new server in a thread."""
    config = config_of(folder, limits, **fields)
    with Server(config, offers) as running, client_of(running.address, config.token) as client:
        yield client


@contextmanager
def process(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Any]:
    """`longlive serve` as a process, with its client; killed at the end if it still runs."""
    model = folder.parent / "model"
    if not model.is_dir():
        write_tiny_folder(model)
    words = ["serve", "--model", str(model), "--device", "cpu", "--port", "0", "-o", str(folder)]
    started = subprocess.Popen(
        [str(Path(sys.executable).with_name("longlive")), *words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    try:
        assert started.stdout is not None and started.stderr is not None
        address = started.stdout.readline().strip()
        assert address.startswith("http://"), started.stderr.read()
        with client_of(address) as client:
            yield started, client
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGKILL)
        started.communicate()


def until(there: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until something holds; returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = there()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def hashes(client: Client, name: str, blocks: int) -> list[str]:
    """The hash of each of the first blocks."""
    return [hashlib.sha256(client.block(name, block)).hexdigest() for block in range(blocks)]


def made_alone(
    folder: Path, prompt: str, blocks: int, *, seed: int = 0, events: Sequence[Any] = ()
) -> tuple[bytes, list[bytes]]:
    """The header and the first blocks of a video that no server made."""
    path = folder / "alone.mp4"
    path.unlink(missing_ok=True)
    stream = tiny_pipeline().stream(prompt, seconds=3600, seed=seed, events=events)
    with stream, VideoWriter(path, fps=FPS, size=(32, 32)) as writer:
        for block in stream:
            writer.write(block.frames)
            if block.index == blocks - 1:
                break
    index = FragmentIndex(path)
    found = index.refresh()
    return index.read_header(), [index.read(one.start, one.end) for one in found]


def limits(**fields: Any) -> Limits:
    """The limits of tests, with some of them changed."""
    return replace(LIMITS, **fields)


def tiny_offers(folder: Path) -> Offers:
    """The tiny model, loaded once for several servers."""
    return Offers.load(config_of(folder))
