"""Times a steady block of the 5B on one GPU: plain, lossless and high, and each fused operation.

    python benchmarks/fused_block.py -o RESULT.json [--layers 30] [--repeats 5] [--profile]

Weights are random. Correctness comes first: every kernel must have the bits of its reference, and
the whole block (latents and pages) the same bytes with kernels and unfused, or there is no time of
it; the error of "high" is stated. Paths:

    torch            torch's own operations one after another: the path of training and CPUs
    lossless         fused kernels in bfloat16, the bytes of "reference"
    fp8, torch       weights in FP8 without fused kernels
    fp8              weights in FP8, fused kernels, attention in bfloat16
    high             weights in FP8 with fast sums, fused kernels, attention in FP8 over keys and
                     values of the past that are rounded once a block
    high, anew       the same, all keys and values rounded at each call

Both of the last must have the same bytes when the block is made again.

``--profile`` adds the GPU's time by kind of kernel for each path. On an H200 it takes about 90 s.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from longlive_core import float8
from longlive_core.attention import ATTENTION
from longlive_core.backends import Request
from longlive_models.wan import WAN_5B, WanTransformer
from longlive_recipes.bench.fused_block import (
    SteadyBlock,
    compare_attention,
    compare_kernels,
    encoding_ms,
)
from longlive_recipes.bench.self_tests import FAILURES
from longlive_recipes.bench.shared_sizes import randomize_zero_layers, relative_error

LATENT_SIZE = (44, 80)
FRAMES, TOKENS = 8, 880
KINDS = (
    ("attention", ("flash", "fmha", "cudnn", "attention")),
    ("products", ("gemm", "nvjet", "cutlass", "cublas", "matmul", "wgmma", "sm90")),
    ("fused kernels", ("_add_norm", "_rotate", "_gelu_rows")),
    ("encoding", ("_encode", "_largest", "_codes", "_grow_window")),
)


def build(layers: int, device: torch.device) -> WanTransformer:
    """The 5B with random weights, in bfloat16."""
    torch.manual_seed(0)
    with device:
        model = WanTransformer(replace(WAN_5B, num_layers=layers))
    randomize_zero_layers(model)
    return model.to(torch.bfloat16).eval().requires_grad_(False)


def by_kind(block: SteadyBlock) -> dict[str, float]:
    """Milliseconds of a block's kernels by kind, and of all others by name, longest first."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        block.run()
        torch.cuda.synchronize()
    took: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS if any(word in name for word in words)), None)
        took[kind or f"{event.key[:60]} x{event.count}"] += event.self_device_time_total / 1e3
    longest = sorted(took.items(), key=lambda pair: -pair[1])
    return {name: round(milliseconds, 2) for name, milliseconds in longest[:16]}


def measure(layers: int, repeats: int, profile: bool) -> dict[str, Any]:
    """All rows; what is wrong has a problem and no time."""
    device = torch.device("cuda")
    config = WAN_5B
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "layers": layers,
    }
    found["kernels"] = {
        name: asdict(row) for name, row in compare_kernels(config, FRAMES, TOKENS, device).items()
    }
    found["attention"] = compare_attention(config, FRAMES * TOKENS, 4 * FRAMES * TOKENS, device)
    found["encode_rows_ms"] = encoding_ms(config, FRAMES * TOKENS, device)
    torch.cuda.empty_cache()
    model = build(layers, device)
    block = SteadyBlock(model, LATENT_SIZE)
    paths: dict[str, dict[str, Any]] = {}
    found["paths"] = paths

    def path(name: str, quality: str, fused: str, block: SteadyBlock = block) -> None:
        try:
            model.set_quality(quality, fused=fused)
            got = block.bytes()[0]
            row: dict[str, Any] = {"error": relative_error(got, plain)}
            if quality == "high" and not torch.equal(block.bytes()[0], got):
                paths[name] = {"problem": "the same block has other bytes when it is made again"}
                return
            row["seconds"] = block.seconds(repeats)
            if profile:
                row["kinds_ms"] = by_kind(block)
        except FAILURES as problem:
            row = {"problem": " ".join(str(problem).split())[:300]}
        paths[name] = row
        print(name, row, file=sys.stderr, flush=True)

    model.set_quality("lossless", fused="torch")
    plain = block.bytes()[0]
    path("torch", "lossless", "torch")
    model.set_quality("lossless")
    fused = block.bytes()
    model.set_quality("lossless", fused="reference")
    unlike = [i for i, pair in enumerate(zip(fused, block.bytes(), strict=True))
              if not torch.equal(*pair)]  # fmt: skip
    found["tensors of a block unlike the unfused path's"] = unlike
    del fused
    if unlike:
        paths["lossless"] = {"problem": f"{len(unlike)} tensors of a block have other bytes"}
    else:
        path("lossless", "lossless", "auto")
    model.set_quality("lossless")
    float8.convert_linears(model.blocks, float8.Float8Config(), device=device)
    torch.cuda.empty_cache()
    path("fp8, torch", "lossless", "torch")
    path("fp8", "lossless", "auto")
    for module in model.modules():
        if isinstance(module, float8.Float8Linear):
            module.config = replace(module.config, quality="high")
    path("fp8, fast sums", "lossless", "auto")
    path("high", "high", "auto")
    path("high, anew", "high", "auto", SteadyBlock(model, LATENT_SIZE, windows=False))
    request = Request(device=device, dtype=torch.bfloat16, head_dim=128, quality="high")
    found["attention of high"] = str(ATTENTION.receipt(request))
    found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{found['gpu']}, torch {found['torch']}, {found['layers']} layers")
    for name, row in found["kernels"].items():
        print(f"  {name:36} " + in_words(row))
    for name, row in found["attention"].items():
        print(f"  attention {name:26} " + in_words(row))
    print(f"  encode rows alone {found['encode_rows_ms']:.3f} ms; {found['attention of high']}")
    unlike = found["tensors of a block unlike the unfused path's"]
    print(f"latents and pages of lossless: {len(unlike)} of them unlike the unfused path's")
    base = found["paths"]["torch"].get("seconds")
    for name, row in found["paths"].items():
        kinds = row.pop("kinds_ms", {})
        times = f"{base / row['seconds']:.3f} times  " if base and "seconds" in row else ""
        print(f"{name:18} {times}{in_words(row)}")
        for kind, milliseconds in kinds.items():
            print(f"    {milliseconds:8.2f} ms  {kind}")


def in_words(row: dict[str, Any]) -> str:
    """A row on a line."""
    said = {name: value for name, value in row.items() if value is not None}
    return "  ".join(f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in said.items())


def main() -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--layers", type=int, default=WAN_5B.num_layers)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    found = measure(given.layers, given.repeats, given.profile)
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=2) + "\n")
    show(found)


if __name__ == "__main__":
    main()
