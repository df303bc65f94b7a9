"""How long loading LongLive-2.0-5B's bf16 file takes, beside an earlier build, with a warm cache.

A synthetic snapshot is written: the transformer at full width, and a VAE and a text encoder that
are tiny, so that the transformer's file is what is timed. Each build loads it in processes of its
own, in turn; time is from the folder's name to a pipeline whose weights are on the device. At
first, all weights that the new build has on the device are compared with those in the file: where
one differs, nothing is timed.

    git archive EARLIER longlive_core longlive_models | tar -x -C build/earlier
    python -m benchmarks.loading --earlier build/earlier              # the whole file, 11 GB
    python -m benchmarks.loading --earlier build/earlier --layers 12  # 12 of its 30 layers, 4 GB

Each load is printed when it is done, and no turn begins that would end after --limit seconds.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GB = 1e9


def main() -> None:
    """Write the snapshot, time both builds in turn, and print a table."""
    arguments = parsed()
    if arguments.child:
        print(json.dumps(load(arguments.folder, arguments.device, arguments.compare)))
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        size = write(folder, arguments.layers, arguments.dim)
        say(f"wrote {size / GB:.2f} GB in {time.perf_counter() - start:.1f} s")
        warm(folder)
        builds = {"this build": ROOT}
        if arguments.earlier:
            builds["earlier build"] = arguments.earlier.resolve()
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
        for turn in range(arguments.repeats):
            began = time.perf_counter()
            for name, tree in builds.items():
                row = run(tree, folder, arguments.device, compare=turn == 0)
                rows[name].append(row)
                same = "; its weights are those of the file" if row["compared"] else ""
                say(f"{name}: {row['seconds']:.2f} s, {row['own_gb']:.2f} GB of its own{same}")
            now = time.perf_counter()
            if now + (now - began) > start + arguments.limit:
                break
    show(rows, size)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--earlier", type=Path, help="the tree of another build")
    parser.add_argument("--folder", type=Path, help="where the snapshot is written")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--dim", type=int, default=3072)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=90, help="seconds that all may take")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def sizes(layers: int, dim: int) -> tuple[Any, Any, Any]:
    """The config of the transformer, of a tiny VAE, and of a tiny text encoder."""
    from longlive_models.text import UMT5Config
    from longlive_models.vae import WAN22_VAE
    from longlive_models.wan import WAN_5B

    ffn = dim * WAN_5B.ffn_dim // WAN_5B.dim // 128 * 128
    wan = replace(WAN_5B, num_layers=layers, dim=dim, num_heads=dim // 128, ffn_dim=ffn)
    vae = replace(WAN22_VAE, encoder_dim=4, decoder_dim=4, num_res_blocks=1)
    text = UMT5Config(
        vocab_size=16, dim=WAN_5B.text_dim, dim_attn=64, dim_ffn=64, num_heads=1, num_layers=1
    )
    return wan, vae, text


def write(folder: Path, layers: int, dim: int) -> int:
    """Write the snapshot; returns the bytes of the transformer's file."""
    from benchmarks.snapshot import write_snapshot

    write_snapshot(folder, *sizes(layers, dim))
    return (folder / "model_bf16.pt").stat().st_size


def warm(folder: Path) -> None:
    """Read the files once, so that the system holds them in memory."""
    for file in folder.glob("*.p*"):
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass


def run(tree: Path, folder: Path, device: str, *, compare: bool) -> dict[str, Any]:
    """Load the snapshot with the build in ``tree``, in a process of its own."""
    command = [sys.executable, __file__, "--child", "--folder", str(folder), "--device", device]
    if compare and tree == ROOT:
        command.append("--compare")
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the build in {tree} failed:\n{done.stderr[-3000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert Path(row["tree"]).is_relative_to(tree), f"{row['tree']} is not in {tree}"
    return row


def load(folder: Path, device: str, compare: bool) -> dict[str, Any]:
    """Load the snapshot here; returns seconds and memory."""
    import torch
    from transformers import AutoTokenizer, UMT5EncoderModel

    import longlive_models
    from longlive_models import LongLivePipeline

    # importing these takes seconds, and is not loading
    assert UMT5EncoderModel
    AutoTokenizer.from_pretrained(str(folder / "google" / "umt5-xxl"))

    if device == "cuda":
        torch.zeros(1, device="cuda").add_(1).item()
    watch = OwnMemory()
    before = watch.now()
    began = time.perf_counter()
    with watch:
        if hasattr(LongLivePipeline, "from_published"):
            pipe = of_earlier(folder, device)
        else:
            pipe = LongLivePipeline.from_pretrained(str(folder), device=device)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    if compare:
        state = torch.load(folder / "model_bf16.pt", mmap=True, weights_only=True)["generator"]
        for name, value in pipe.transformer.state_dict().items():
            want = state[f"model.{name}"]
            same = torch.equal(value.bfloat16(), want.to(value.device))
            assert same, f"{name} is not what the file holds"
    return {
        "tree": longlive_models.__file__,
        "compared": compare,
        "seconds": seconds,
        "own_gb": (watch.most - before) / GB,
        "resident_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB,
    }


def of_earlier(folder: Path, device: str) -> Any:
    """The pipeline by the words of the build of before 0.2.0."""
    from longlive_models import LongLivePipeline, placement
    from longlive_models.published import LONGLIVE_5B

    layers, dim = size_of(folder)
    wan, vae, text = sizes(layers, dim)
    spec = replace(LONGLIVE_5B, transformer=wan, vae=vae)
    where = placement.Placement.choose(device, "auto", "auto", "auto", "auto")
    return LongLivePipeline.from_published(folder, placement=where, spec=spec, text_config=text)


def size_of(folder: Path) -> tuple[int, int]:
    """The layers and the width of the transformer in a snapshot."""
    import torch

    state = torch.load(folder / "model_bf16.pt", mmap=True, weights_only=True)["generator"]
    blocks = {name.split(".")[2] for name in state if name.startswith("model.blocks.")}
    return len(blocks), state["model.head.modulation"].shape[-1]


class OwnMemory:
    """Watches the memory that this process holds besides mapped files, 200 times a second."""

    def __init__(self) -> None:
        self.most = 0
        self._stop = threading.Event()

    def now(self) -> int:
        """The bytes held now."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def __enter__(self) -> "OwnMemory":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, self.now())


def show(rows: dict[str, list[dict[str, Any]]], size: int) -> None:
    """Print the best time of each build, its speed and its memory."""
    print("| build | seconds | all | GB/s | own memory, GB | resident with files, GB |")
    print("|---|---|---|---|---|---|")
    best = {name: min(row["seconds"] for row in several) for name, several in rows.items()}
    for name, several in rows.items():
        every = ", ".join(f"{row['seconds']:.2f}" for row in several)
        own = max(row["own_gb"] for row in several)
        resident = max(row["resident_gb"] for row in several)
        speed = size / GB / best[name]
        print(f"| {name} | {best[name]:.2f} | {every} | {speed:.1f} | {own:.2f} | {resident:.2f} |")
    if len(best) == 2:
        print(f"{best['earlier build'] / best['this build']:.2f} times faster")


if __name__ == "__main__":
    main()
