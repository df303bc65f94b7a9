"""Many sessions on one server: what each of them was given, and how long it waited for that."""

import hashlib
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

PROMPTS = ("a red circle", "a blue square", "the red square", "a blue circle")


@dataclass
class Seen:
    """What one watcher saw.

    Attributes:
        blocks: the hash of each block, in the order in which they came.
        answers: seconds from each new prompt to its answer.
        rounds: of each new prompt, how many blocks the other sessions got until its block came.
        events: the session's events at the end.
    """

    name: str
    seed: int
    blocks: list[str] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


class Watcher(threading.Thread):
    """Watches a session of its own, and steers it now and then."""

    def __init__(self, address: str, seed: int, until: float, *, pause: float, every: int) -> None:
        super().__init__()
        self._address, self._until, self._pause, self._every = address, until, pause, every
        self.seen = Seen(name="", seed=seed)

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self._address, timeout=120) as client:
                self._watch(client)
        except (httpx.HTTPError, AssertionError) as error:
            self.seen.error = repr(error)

    def _watch(self, client: httpx.Client) -> None:
        seen = self.seen
        fields = {"prompt": PROMPTS[0], "seed": seen.seed}
        got = client.post("/v1/sessions", json=fields)
        assert got.status_code == 201, got.text
        seen.name = got.json()["id"]
        while time.monotonic() < self._until:
            self._take(client)
            if len(seen.blocks) % self._every == 0:
                self._steer(client)
            time.sleep(self._pause)
        seen.events = client.get(f"/v1/sessions/{seen.name}").json()["events"]

    def _take(self, client: httpx.Client) -> None:
        block = len(self.seen.blocks)
        got = client.get(f"/v1/sessions/{self.seen.name}/blocks/{block}", params={"wait": 60})
        assert got.status_code == 200, (got.status_code, got.text)
        assert int(got.headers["x-block"]) == block
        self.seen.blocks.append(hashlib.sha256(got.content).hexdigest())

    def _steer(self, client: httpx.Client) -> None:
        """A new prompt, and the wait for its first block: others get two turns until then."""
        seen = self.seen
        text = PROMPTS[len(seen.answers) % len(PROMPTS)]
        before = made(client)
        began = time.perf_counter()
        got = client.post(f"/v1/sessions/{seen.name}/prompt", json={"text": text})
        seen.answers.append(time.perf_counter() - began)
        assert got.status_code == 200, got.text
        block = got.json()["event"]["block"]
        while len(seen.blocks) <= block:
            self._take(client)
        after = made(client)
        others = [after[name] - before.get(name, 0) for name in after if name != seen.name]
        seen.rounds.append(max(others, default=0))


def made(client: httpx.Client) -> dict[str, int]:
    """How many blocks each session has."""
    sessions = client.get("/v1/sessions").json()["data"]
    return {session["id"]: session["blocks"] for session in sessions}


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the process has ended")


@dataclass
class Soaked:
    """What a number of watchers saw, and the server's memory after each second."""

    seen: list[Seen]
    memory: list[int]

    @property
    def answer_95(self) -> float:
        """The 95th percentile of the seconds from a new prompt to its answer."""
        answers = sorted(answer for one in self.seen for answer in one.answers)
        return statistics.quantiles(answers, n=20)[-1] if len(answers) > 1 else answers[0]

    @property
    def rounds(self) -> float:
        """The most turns that another session got between a prompt and its first block."""
        return max(rounds for one in self.seen for rounds in one.rounds)


def soak(address: str, pid: int, *, sessions: int, seconds: float, every: int) -> Soaked:
    """Watch so many sessions for so long; the last of them reads slowly."""
    until = time.monotonic() + seconds
    watchers = [
        Watcher(address, seed, until, pause=2.0 if seed == sessions - 1 else 0.0, every=every)
        for seed in range(sessions)
    ]
    for watcher in watchers:
        watcher.start()
    memory = []
    while any(watcher.is_alive() for watcher in watchers):
        time.sleep(1)
        memory.append(resident(pid))
    for watcher in watchers:
        watcher.join()
        assert not watcher.seen.error, watcher.seen.error
    return Soaked(seen=[watcher.seen for watcher in watchers], memory=memory)
