"""Times the decoding of one block on a CPU: the pocket's full decoder, and one of half its width.

    python benchmarks/vae_cpu.py --threads 2 --repeats 5 --baseline CHECKOUT

``--baseline`` names a checkout of another commit, whose full decoder is timed in the same call: the
programs take turns, each in a process of its own. Printed are medians of wall time and of CPU time,
and how far the baseline's pixels are from ours at most (they are between -1 and 1).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
LATENTS, SIDE, SEED = 8, 16, 0


def decode(threads: int, half: bool) -> dict[str, object]:
    """Decode one block after another; the weights of the half decoder are random."""
    import torch
    from safetensors.torch import load_file

    from longlive_models.vae import VAEConfig, WanVAE, load_vae  # of the checkout on the path

    torch.set_num_threads(threads)
    folder = ROOT / "longlive_models" / "pocket" / "vae"
    config = VAEConfig.from_dict(json.loads((folder / "config.json").read_text()))
    vae = load_vae(load_file(folder / "model.safetensors"), config=config)
    if half:
        vae = WanVAE(replace(config, decoder_dim=config.decoder_dim // 2)).eval()
    vae.channels_last_()
    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn(1, config.latent_channels, LATENTS, SIDE, SIDE, generator=generator)
    with torch.no_grad():
        _, state = vae.decode_block(latents)
        wall, cpu = time.perf_counter(), time.process_time()
        video, _ = vae.decode_block(latents, state)
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**took, "pixels": video.flatten()[::97].tolist()}


def run(checkout: Path, threads: int, half: bool) -> dict[str, object]:
    """``decode`` of a checkout, in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--worker"]
    done = subprocess.run(
        [*command, "--half"] if half else command,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def main() -> None:
    """Time what the options name, in turns, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--half", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(decode(options.threads, options.half)))
        return
    programs = {"full": (ROOT, False), "half": (ROOT, True)}
    if options.baseline is not None:
        programs["baseline, full"] = (options.baseline.resolve(), False)
    found: dict[str, list[dict[str, object]]] = {name: [] for name in programs}
    for _ in range(options.repeats):
        for name, (checkout, half) in programs.items():
            found[name].append(run(checkout, options.threads, half))
    for name, runs in found.items():
        wall, cpu = (statistics.median(float(str(one[k])) for one in runs) for k in ("wall", "cpu"))
        print(f"{name:15} {wall:.3f} s, {cpu:.3f} s of CPU time, {options.threads} threads")
    if options.baseline is not None:
        pair = [found[name][0]["pixels"] for name in ("full", "baseline, full")]
        assert isinstance(pair[0], list) and isinstance(pair[1], list)
        most = max(abs(a - b) for a, b in zip(pair[0], pair[1], strict=True))
        print(f"the baseline's pixels differ by {most:.1e} at most")


if __name__ == "__main__":
    main()
