"""The public command with a folder as LongLive-2.0-5B is published, at full size.

    python -m benchmarks.full_size                       # a GPU of 40 GB or more, 30 GB of disk
    python -m benchmarks.full_size --small --device cpu  # every part tiny, to see that it runs

A synthetic snapshot is written, every file of the size of the published one, with random weights:
transformer, VAE, UMT5-XXL. Then `longlive generate` makes a second of video from it in a process of
its own, as png files; their number and size are looked at.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from PIL import Image

from benchmarks.snapshot import write_snapshot
from longlive_models.text import UMT5_XXL
from longlive_models.vae import WAN22_VAE
from longlive_models.wan import WAN_5B

GB = 1e9
SIZE = (1280, 704)
COMMAND = "import sys; from longlive_cli.main import app; sys.exit(app())"
SMALL_TEXT = {"vocab_size": 16, "dim_attn": 64, "dim_ffn": 64, "num_heads": 1, "num_layers": 1}


def main() -> None:
    """Write the snapshot, generate from it, and print what came of it."""
    arguments = parsed()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name, "snapshot")
        folder.mkdir()
        began = time.perf_counter()
        if arguments.small:
            wan = replace(WAN_5B, num_layers=2, dim=128, num_heads=1, ffn_dim=256)
            vae = replace(WAN22_VAE, encoder_dim=4, decoder_dim=4, num_res_blocks=1)
            write_snapshot(folder, wan, vae, replace(UMT5_XXL, **SMALL_TEXT))
        else:
            write_snapshot(folder, WAN_5B, WAN22_VAE, UMT5_XXL)
        files = sorted(file for file in folder.iterdir() if file.is_file())
        for file in files:
            print(f"{file.name}: {file.stat().st_size / GB:.2f} GB", flush=True)
        print(f"written in {time.perf_counter() - began:.0f} s", flush=True)
        generate(folder, Path(name, "frames.png"), arguments.device)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the snapshot is written")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="every part tiny")
    return parser.parse_args()


def generate(folder: Path, output: Path, device: str) -> None:
    """Make a second of video with the public command, and look at what it wrote."""
    words = ["a cat walks on the grass", "--model", str(folder), "--seconds", "1"]
    where = ["--device", device, "--output", str(output)]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "generate", *words, *where],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"longlive generate failed:\n{done.stderr[-3000:]}")
    pictures = sorted(output.with_suffix("").glob("*.png"))
    sizes = {Image.open(picture).size for picture in pictures}
    assert sizes == {SIZE}, f"frames are of {sizes}"
    print(done.stderr[-1500:], done.stdout[-1500:])
    print(f"{len(pictures)} frames of {SIZE}, {seconds:.1f} s for the whole command")


if __name__ == "__main__":
    main()
