"""Frames a second through the HTTP stream of `longlive serve`, beside `longlive generate` alone.

    OMP_NUM_THREADS=2 python benchmarks/serve_overhead.py

The same video, made by turns: by the recipe of `longlive generate` in this process, and by a
server in another one, from which this process reads the stream as it is made. Loading and the
first block are not counted. The files have to be the same, byte for byte, or nothing is written.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen

import torch

from longlive_models.prompts.storyboard import Storyboard
from longlive_recipes.bench.options import Rows
from longlive_recipes.bench.record import stamped, table, write
from longlive_recipes.configs.generate import Generate, VideoJob
from longlive_recipes.generation.plan import plan
from longlive_recipes.generation.session import VideoSession, load_pipeline, open_video_session

PROMPT = "a red circle moves right on a navy background"
ABOUT = (
    "A video, made by turns by the recipe of `longlive generate` and by a server whose stream one "
    "client reads. Frames a second and the time of processors per frame, from the first "
    "block on to the end; the reading client and the HTTP side of the server are in the server's "
    "share. Numbers are medians over turns; the share is the median of each turn's own."
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is timed: a video of so many seconds, made so many times by each."""

    model: str = "pocket"
    seconds: float = 40.0
    steps: int = 4
    turns: int = 2


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a video took after its first block: frames, seconds, and seconds of processors."""

    frames: int
    seconds: float
    cpu: float
    data: bytes


class Alone:
    """The recipe of `longlive generate`, in this process; the model is loaded once."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self._config = Generate(
            model=sizes.model, seconds=sizes.seconds, steps=sizes.steps, device="cpu"
        )
        self._job = VideoJob(name="video", story=Storyboard.of(PROMPT), seed=1)
        self._path = folder / "alone.mp4"
        self._pipeline = load_pipeline(self._plan())

    def _plan(self) -> Any:
        return plan(self._config, [self._job], self._path, True)

    def make(self) -> Spent:
        planned = self._plan()
        session: VideoSession = open_video_session(
            self._pipeline,
            planned,
            self._job,
            planned.videos[0],
            overwrite=True,
            began=time.perf_counter(),
        )
        with session:
            session.advance()
            began, cpu, before = time.perf_counter(), time.process_time(), session.frames
            while session.advance() is not None:
                pass
            seconds, spent = time.perf_counter() - began, time.process_time() - cpu
            frames = session.frames - before
        return Spent(frames=frames, seconds=seconds, cpu=spent, data=self._path.read_bytes())


class Served:
    """`longlive serve` in a process of its own, and a client that reads what it makes."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        command = [
            *(str(Path(sys.executable).with_name("longlive")), "serve", "--model", sizes.model),
            *("--device", "cpu", "--port", "0", "--output", str(folder / "served")),
        ]
        self._sizes = sizes
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._address = self._process.stdout.readline().strip()
        assert self._address.startswith("http"), "the server did not start"

    def make(self) -> Spent:
        wish = {"prompt": PROMPT, "seed": 1, "seconds": self._sizes.seconds}
        name = json.loads(self._ask("v1/sessions", {**wish, "steps": self._sizes.steps}))["id"]
        with urlopen(f"{self._address}v1/sessions/{name}/video.mp4?follow=true") as stream:
            data = stream.read(1)
            while not (first := self._facts(name))["blocks"]:
                time.sleep(0.01)
            began, cpu = time.perf_counter(), self._cpu()
            data += stream.read()
            seconds, spent = time.perf_counter() - began, self._cpu() - cpu
        frames = self._facts(name)["frames"] - first["frames"]
        return Spent(frames=frames, seconds=seconds, cpu=spent, data=data)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        self._process.kill()
        self._process.communicate()

    def _facts(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self._ask(f"v1/sessions/{name}")))

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        heads = {"content-type": "application/json"}
        with urlopen(Request(f"{self._address}{path}", data, heads)) as answer:
            return bytes(answer.read())

    def _cpu(self) -> float:
        """Seconds of processors that the server and this client have used."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(stat[11]) + int(stat[12])
        return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def measure(sizes: Sizes) -> Rows:
    """Rows by who makes the video. Raises AssertionError unless the files are the same."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, served = Alone(sizes, folder), Served(sizes, folder)
        pairs: list[tuple[Spent, Spent]] = []
        try:
            for _ in range(sizes.turns):
                pairs.append((alone.make(), served.make()))
                one, other = pairs[-1]
                assert one.data == other.data, "the server made another file"
        finally:
            served.close()
    rates = [(one.frames / one.seconds, other.frames / other.seconds) for one, other in pairs]
    costs = [(one.cpu / one.frames, other.cpu / other.frames) for one, other in pairs]
    return {
        name: {
            "frames_per_second": median(rate[place] for rate in rates),
            "of_generate": median(rate[place] / rate[0] for rate in rates),
            "cpu_seconds_per_frame": median(cost[place] for cost in costs),
            "cpu_of_generate": median(cost[place] / cost[0] for cost in costs),
        }
        for place, name in enumerate(("longlive generate", "longlive serve, a stream"))
    }


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure, store the record and its table; returns the record's path."""
    parser = argparse.ArgumentParser(description=__doc__)
    for one in fields(Sizes):
        parser.add_argument(f"--{one.name}", type=type(one.default), default=one.default)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = vars(parser.parse_args(arguments))
    folder, sizes = given.pop("results"), Sizes(**given)
    found: dict[str, Any] = {
        "benchmark": "serve_overhead",
        "about": ABOUT,
        "checked": "both files are the same, byte for byte, in every turn",
        "rows": measure(sizes),
    }
    usual = asdict(Sizes())
    changed = [f"--{name} {size}" for name, size in asdict(sizes).items() if size != usual[name]]
    command = " ".join(["python benchmarks/serve_overhead.py", *changed])
    record = stamped(found, asdict(sizes), torch.device("cpu"), command)
    return write(record, table(record), folder, "serve_overhead_cpu")[0]


if __name__ == "__main__":
    print(main())
