"""Frames a second of the pocket on a CPU, of this checkout and of others, in turns.

    python benchmarks/pocket_cpu.py --baseline CHECKOUT --baseline OTHER       # some minutes

Every run is a process of its own that makes the same video with this checkout's model: with both
cores for one thing after another, or with decoding on a thread of its own beside denoising, each of
the two with one core or both. Blocks are timed once the window is full. Printed are the best and
the median of the runs, and how far a baseline's bytes are from ours. A baseline has to read this
checkout's model; of older ones `vae_cpu.py` compares the decoder alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMPT, SEED = "a red circle moves right on a navy background", 7
SPLITS = {
    "one after another, 2 threads": ("inline", 2),
    "side by side, 2 threads each": ("thread", 2),
    "side by side, 1 thread each": ("thread", 1),
}


def make(lane: str, threads: int, blocks: int, steps: int, output: Path) -> dict[str, object]:
    """Make a video with the checkout on the path; its last frames are written to ``output``."""
    import torch

    from longlive_models import LongLivePipeline

    torch.set_num_threads(threads)
    model = str(ROOT / "longlive_models" / "pocket")
    pipe = LongLivePipeline.from_pretrained(model, device="cpu", lane=lane)
    seconds = pipe.timing.seconds(blocks)
    full = pipe.settings.window - 1
    with pipe.stream(PROMPT, seconds=seconds, seed=SEED, steps=steps) as stream:
        made, arrived = [], []
        for block in stream:
            made.append(block)
            arrived.append(time.perf_counter())
    timed = made[full:]
    torch.save(made[-1].frames, output)
    return {
        "frames_a_second": sum(len(b.frames) for b in timed) / (arrived[-1] - arrived[full - 1]),
        "denoise": statistics.median(b.timing.denoise for b in timed),
        "decode": statistics.median(b.timing.decode for b in timed),
    }


def run(checkout: Path, split: str, options: argparse.Namespace, output: Path) -> dict[str, float]:
    """``make`` of a checkout, in a process of its own."""
    given = ("--blocks", str(options.blocks), "--steps", str(options.steps))
    done = subprocess.run(
        [sys.executable, __file__, "--worker", split, "--output", str(output), *given],
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(SPLITS[split][1])},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(first: Path, second: Path) -> str:
    """How far the bytes of two files of frames are from each other."""
    import torch

    off = (torch.load(first).short() - torch.load(second).short()).abs().float()
    return f"bytes differ by {off.max().item():.0f} at most, {off.mean().item():.4f} on average"


def main() -> None:
    """Run what the options name, in turns, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--baseline", type=Path, action="append", default=[])
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", choices=tuple(SPLITS), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        lane, threads = SPLITS[options.worker]
        print(json.dumps(make(lane, threads, options.blocks, options.steps, options.output)))
        return
    usual = next(iter(SPLITS))
    rows = {f"ours, {split}": (ROOT, split) for split in SPLITS}
    rows |= {f"{path}, {usual}": (path.resolve(), usual) for path in options.baseline}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{number}.pt" for number, name in enumerate(rows)}
        for _ in range(options.repeats):
            for name, (checkout, split) in rows.items():
                found[name].append(run(checkout, split, options, files[name]))
        first = next(iter(rows))
        for name, runs in found.items():
            middle = statistics.median(one["frames_a_second"] for one in runs)
            best = max(runs, key=lambda one: one["frames_a_second"])
            print(
                f"{name}: {best['frames_a_second']:.2f} frames a second (median {middle:.2f}), "
                f"denoising {best['denoise']:.2f} s, decoding {best['decode']:.2f} s a block; "
                f"{compare(files[first], files[name])}"
            )


if __name__ == "__main__":
    main()
