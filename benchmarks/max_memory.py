"""What `--max-memory` promises of LongLive-2.0-5B, on a GPU that is made as small as it says.

    python benchmarks/max_memory.py                 # any GPU with 24 GB or more; about a minute
    python benchmarks/max_memory.py --sizes 16 --output 16.json

The full-size model of random weights, its text encoder included (of one layer, repeated: a layer is
what visits the device). First, that frames do not depend on where blocks wait: a small model's are
compared, bit for bit, with and without. Then for each size torch may take no more of the device
than that; settings are picked as `longlive generate --max-memory` picks them, and three blocks of
video are made. A row says what was picked, the peak that was said and that was, what fragments were
said to make of it and what torch's allocator held, and seconds of a block. The status is 1 where
frames differ, or something that was said to fit ends for want of memory. A size for which nothing
is picked is told, and is no failure.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longlive_models.checkpoints.folder import fill, unfilled
from longlive_models.pipeline import LongLivePipeline
from longlive_models.published import LONGLIVE_5B
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.settings import ModelSpec
from longlive_models.text import UMT5_XXL, UMT5Config, UMT5TextEncoder
from longlive_models.vae import WanVAE
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.plan import PlanWishes
from longlive_recipes.plan import choose
from longlive_recipes.planning.advice import pick, smallest
from longlive_recipes.planning.hardware import GIB, Hardware, here, within
from longlive_recipes.planning.memory import Choice
from longlive_recipes.planning.sizes import PUBLISHED, counted, umt5

SIZES = (12, 16, 18, 24)
BLOCKS = 2


class Words:
    """Stands for the tokenizer: token numbers that depend on the prompt alone."""

    unk_token_id = -1

    def __init__(self, config: UMT5Config) -> None:
        self._count, self._length = min(1000, config.vocab_size), min(64, config.text_len)

    def __call__(self, texts: str | Sequence[str], **how: Any) -> dict[str, Any]:
        """The numbers of each text, as many for all."""
        if isinstance(texts, str):
            return {"input_ids": self._numbers(texts)}
        ids = torch.tensor([self._numbers(text) for text in texts], dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _numbers(self, text: str) -> list[int]:
        letters = ((text or " ") * self._length)[: self._length]
        return [ord(one) * (place + 7) % self._count for place, one in enumerate(letters)]


_DRAWN: dict[str, dict[str, Tensor]] = {}


def drawn(name: str, module: nn.Module) -> dict[str, Tensor]:
    """Random weights in bf16 on the CPU, drawn once."""
    if name not in _DRAWN:
        pattern = torch.randn(1 << 20, dtype=torch.float32).mul_(0.02).to(torch.bfloat16)
        _DRAWN[name] = {
            key: pattern.repeat(held.numel() // len(pattern) + 1)[: held.numel()].view(held.shape)
            for key, held in module.state_dict().items()
        }
    return _DRAWN[name]


def text_encoder(config: UMT5Config) -> UMT5TextEncoder:
    """UMT5, whose layers share the memory of one on the host."""
    with unfilled():
        text = UMT5TextEncoder(config)
    first = {
        key: torch.randn(held.shape, dtype=torch.float32).mul_(0.02).to(torch.bfloat16)
        for key, held in text.layers[0].state_dict().items()
    }
    for layer in text.layers:
        layer.load_state_dict(first, assign=True)
    table = torch.zeros(config.vocab_size, config.dim, dtype=torch.bfloat16)
    table[:1000].normal_(std=0.02)
    text.model.shared.weight = nn.Parameter(table, requires_grad=False)
    text.model.set_input_embeddings(text.model.shared)
    norm = torch.ones(config.dim, dtype=torch.bfloat16)
    text.model.encoder.final_layer_norm.weight = nn.Parameter(norm, requires_grad=False)
    vars(text)["tokenizer"] = Words(config)
    return text


def build(spec: ModelSpec, text: UMT5Config, choice: Choice, device: str) -> LongLivePipeline:
    """A pipeline of random weights, run as ``choice`` says."""
    options = RuntimeOptions(
        device=device,
        weights=choice.weights,
        kv_cache=choice.kv_cache,
        vae_latents=choice.vae_latents,
        vae_tiles=choice.vae_tiles,
        offload=choice.offload,
        text_encoder=choice.text_encoder,
        lane="auto" if choice.beside else "inline",
    )
    with unfilled():
        transformer, vae = WanTransformer(spec.transformer), WanVAE(spec.vae)
    for name, module in (("transformer", transformer), ("vae", vae)):
        fill(module, drawn(name, module), "random weights")
    vae.reset_statistics()
    return LongLivePipeline(
        transformer,
        vae,
        text_encoder(text),
        settings=spec.settings,
        runtime=Runtime.choose(options),
    )


def equal_frames(device: str) -> bool:
    """Whether the pocket's frames are the same with blocks and text encoder that visit the GPU."""
    shown = []
    for how in ({}, {"offload": True, "text_encoder": "offload"}):
        for weights in ("bf16", "nvfp4"):
            pipe = LongLivePipeline.from_pretrained("pocket", device=device, weights=weights, **how)
            prompt = "a red circle moves right on a navy background"
            shown.append(pipe(prompt, seconds=4, seed=1, steps=2).frames)
    return all(torch.equal(a, b) for a, b in zip(shown[:2], shown[2:], strict=True))


def limited(device: Hardware, size: int) -> Hardware:
    """The device with at most so many GB."""
    return within(device, f"{size}GB")


def tried(spec: ModelSpec, size: int, device: str) -> dict[str, Any]:
    """What is picked for so many GB, and what becomes of it."""
    sizes = counted(PUBLISHED, spec, umt5(UMT5_XXL))
    hardware = limited(here(device), size)
    usable = hardware.memory - hardware.reserved
    row: dict[str, Any] = {"size": size, "usable": usable, "fits": None}
    wishes = PlanWishes(max_memory=f"{size}GB")
    start = choose(wishes, sizes, hardware)
    found = pick(sizes, start, hardware, free=wishes.free)
    if found is None:
        return {**row, "picked": None, "least": smallest(sizes, start, hardware).needed}
    row |= {"picked": list(found.options), "said": found.memory.peak, "needed": found.memory.needed}
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, usable / whole), device)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        row |= ran(build(spec, UMT5_XXL, found.choice, device), device)
    except torch.OutOfMemoryError as error:
        row |= {"fits": False, "error": str(error)}
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    return row


def ran(pipe: LongLivePipeline, device: str) -> dict[str, Any]:
    """Make some blocks, with another prompt for the last; returns peaks and seconds."""
    on_gpu = device.startswith("cuda")
    loading = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    stream = pipe.stream("anything", seconds=pipe.timing.seconds(BLOCKS))
    began = time.perf_counter()
    stream.prompt("another thing", at=pipe.timing.seconds(BLOCKS - 1))
    *_, last = stream
    return {
        "fits": True,
        "loading": loading,
        "peak": torch.cuda.max_memory_allocated(device) if on_gpu else 0,
        "reserved": torch.cuda.max_memory_reserved(device) if on_gpu else 0,
        "denoise": last.timing.denoise,
        "decode": last.timing.decode,
        "seconds": time.perf_counter() - began,
    }


def gib(row: dict[str, Any], name: str) -> str:
    """A number of bytes in GiB, or a dash."""
    return f"{row[name] / GIB:8.2f}" if name in row else f"{'-':>8}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare frames, try each size, print a table; returns the status of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--layers", type=int, default=LONGLIVE_5B.transformer.num_layers)
    parser.add_argument("--output", type=Path, help="a file for the rows as JSON")
    given = parser.parse_args(arguments)
    if not equal_frames(given.device):
        print("FRAMES DIFFER where blocks wait on the host: nothing is measured")
        return 1
    transformer = replace(LONGLIVE_5B.transformer, num_layers=given.layers)
    spec = replace(LONGLIVE_5B, transformer=transformer)
    rows = []
    for size in given.sizes:
        began = time.perf_counter()
        rows.append({**tried(spec, size, given.device), "took": 0.0})
        rows[-1]["took"] = time.perf_counter() - began
        print(f"{size} GB: {rows[-1]}", flush=True)
    if given.output is not None:
        given.output.write_text(json.dumps(rows, indent=2) + "\n")
    print(
        f"\n{'card':>6}{'usable':>8}{'said':>8}{'peak':>8}{'needed':>8}{'held':>8}  block s  picked"
    )
    for row in rows:
        picked = "nothing" if row["picked"] is None else " ".join(row["picked"]) or "as it is"
        seconds = f"{row['denoise']:7.2f}" if "denoise" in row else f"{'-':>7}"
        mark = "  OUT OF MEMORY" if row["fits"] is False else ""
        print(
            f"{row['size']:4} GB{gib(row, 'usable')}{gib(row, 'said')}{gib(row, 'peak')}"
            f"{gib(row, 'needed')}{gib(row, 'reserved')}  {seconds}  {picked}{mark}"
        )
    return 1 if any(row["fits"] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
