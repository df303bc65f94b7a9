"""What a user's process gives to streams and videos by mistake; prints each that is not refused.

Run by `test_wrong_values.py` in a process of its own, where annotations are not checked.
"""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from longlive_models import Stream, Video
from tests.models.tiny_pipeline import tiny_pipeline

NAN, INF = math.nan, math.inf
EVENT = {"block": 1, "text": "a", "memory": "keep", "forget": False}
PIPE = tiny_pipeline()


def stream(**how: object) -> Stream:
    return PIPE.stream("a red circle", **{"seconds": 3, **how})


def attempts(folder: Path) -> Iterator[tuple[str, object, Callable[[object], object]]]:
    """Name, wrong value, and what it is given to."""
    live = stream()
    next(live)
    for value in (5, None, "", " ", [], b"x"):
        yield "prompt", value, live.prompt
        yield "cut", value, live.cut
    for value in ("then", "2", NAN, INF, -1, True, 1e300, None):
        yield "at", value, lambda value: live.prompt("a red", at=value)
    for value in ("Keep", None, 5):
        yield "memory", value, lambda value: live.prompt("a red", memory=value)
    for value in ("yes", None, 5):
        yield "forget", value, lambda value: live.cut("a red", forget=value)
    for value in (5, None, folder, folder / "none" / "s"):
        yield "snapshot", value, live.snapshot
    for value in ({"a": object()}, {"a": NAN}, [1]):
        yield "notes", value, lambda value: live.snapshot(folder / "s", notes=value)
    for value in (5, None, folder, folder / "none", ""):
        yield "resume", value, PIPE.resume
    wrong = {"block": ("1", 1.5, -1, 99), "text": (5, ""), "memory": ("x", None), "forget": ("no",)}
    changed = [[{**EVENT, key: v}] for key, values in wrong.items() for v in values]
    for value in (5, "abc", None, [5], [{}], {"a": 1}, [{**EVENT, "x": 1}], *changed):
        yield "events", value, lambda value: stream(events=value)
    for value in (3.0, "3", None, True, -1, 2**70, NAN):
        yield "seed", value, lambda value: stream(seed=value)
    for value in (2.0, "2", 0, True, 10**9, NAN):
        yield "steps", value, lambda value: stream(steps=value)
    for value in ("2", -1, NAN, INF, True, 1e308):
        yield "guidance", value, lambda value: stream(guidance=value)
    for value in ("1", 0, -1, NAN, True, 1e18):
        yield "seconds", value, lambda value: stream(seconds=value)
    for value in (5, "none.png", np.zeros((4, 4)), torch.zeros(3, 4, 4)):
        yield "image", value, lambda value: stream(image=value)
    for value in (5, "f", [], {}):
        yield "on_step", value, lambda value: stream(on_step=value)
        yield "on_block", value, lambda value: stream(on_block=value)
    for value in (5, ["a"]):
        yield "negative_prompt", value, lambda value: stream(negative_prompt=value, guidance=2)
    frames = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    video = Video(frames, 8)
    for value in ([1], None, frames.float(), frames[0], frames.numpy()):
        yield "frames", value, lambda value: Video(value, 8)
    for value in ("8", None, 0, -1, NAN, INF, True):
        yield "fps", value, lambda value: Video(frames, value)
    for value in (5, None, "", "a", "a.webm", folder):
        yield "save", value, video.save
    for value in (20.5, "20", -1, 52, True):
        yield "crf", value, lambda value: video.save(folder / "a.mp4", crf=value)
    for value in ("8", 0, -1, NAN, INF, True):
        yield "rate", value, lambda value: video.save(folder / "a.mp4", fps=value)


def main(folder: Path) -> None:
    count = 0
    before = sorted(folder.iterdir())
    for name, value, act in attempts(folder):
        count += 1
        try:
            act(value)
        except ValueError as error:
            if not str(error):
                print(name, repr(value), "without a word")
        except Exception as error:
            print(name, repr(value), type(error).__name__, error)
        else:
            print(name, repr(value), "was taken")
    for seed in (3, np.int32(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3])):
        try:  # numbers of every library are taken where Python's are
            made = stream(seed=seed, seconds=np.float32(3), steps=np.int64(2))
            if made._generator.seeds != (3,):
                print("seed", repr(seed), "became", made._generator.seeds)
        except ValueError as error:
            print("seed", repr(seed), "was refused:", error)
    if sorted(folder.iterdir()) != before:
        print("left behind", sorted(folder.iterdir()))
    print(count, "tried", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
