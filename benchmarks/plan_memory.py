"""What `longlive plan` says of LongLive-2.0-5B's memory and time, against a GPU that runs it.

    python benchmarks/plan_memory.py            # a GPU of 80 GB or more, about a minute and a half

The full-size model without its text encoder, of random weights, in each precision: two blocks of
video, the peak that torch counts, and seconds of a block. Then cards of 12 to 141 GB are imitated
by torch's per-process memory fraction: what is said to fit must run, and what is not must end for
want of memory. A table of each is printed; the status is 1 where a prediction is wrong.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longlive_models.checkpoints.folder import fill, unfilled
from longlive_models.pipeline import LongLivePipeline
from longlive_models.published import LONGLIVE_5B
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.settings import ModelSpec
from longlive_models.vae import WanVAE
from longlive_models.wan import WanTransformer
from longlive_recipes.planning.advice import fits
from longlive_recipes.planning.hardware import GIB, GPUS
from longlive_recipes.planning.memory import Choice, memory_of
from longlive_recipes.planning.sizes import PUBLISHED, counted
from longlive_recipes.planning.speed import speed_of

CHOICES = (("bf16", "bf16"), ("fp8", "bf16"), ("nvfp4", "nvfp4"))
CARDS = (12, 16, 24, 40, 80, 141)
WITHIN = 0.10


@dataclass(frozen=True)
class NoText:
    """Stands for the text encoder, whose weights are not loaded."""

    text_len: int
    text_dim: int
    device: torch.device

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Features of each prompt: random, and the same for all."""
        shape = (len(prompts), self.text_len, self.text_dim)
        return torch.full(shape, 0.01, dtype=torch.bfloat16, device=self.device)


_DRAWN: dict[str, dict[str, Tensor]] = {}


def drawn(name: str, module: torch.nn.Module) -> dict[str, Tensor]:
    """Random weights in bf16 on the CPU, drawn once: pipelines take copies of them elsewhere."""
    if name not in _DRAWN:
        pattern = torch.randn(1 << 20, dtype=torch.float32).mul_(0.02).to(torch.bfloat16)
        _DRAWN[name] = {
            key: pattern.repeat(held.numel() // len(pattern) + 1)[: held.numel()].view(held.shape)
            for key, held in module.state_dict().items()
        }
    return _DRAWN[name]


def build(spec: ModelSpec, weights: str, kv_cache: str, device: str) -> LongLivePipeline:
    """A pipeline of random weights on the device, without a text encoder."""
    options = RuntimeOptions(device=device, weights=weights, kv_cache=kv_cache)
    runtime = Runtime.choose(options)
    with unfilled():
        transformer, vae = WanTransformer(spec.transformer), WanVAE(spec.vae)
    for name, module in (("transformer", transformer), ("vae", vae)):
        fill(module, drawn(name, module), "random weights")
    vae.reset_statistics()
    wan = spec.transformer
    text = NoText(wan.text_len, wan.text_dim, runtime.device)
    return LongLivePipeline(transformer, vae, text, settings=spec.settings, runtime=runtime)


def run(spec: ModelSpec, weights: str, kv_cache: str, device: str, blocks: int) -> float:
    """Make some blocks of video; returns the seconds of denoising the last one."""
    pipe = build(spec, weights, kv_cache, device)
    if device.startswith("cuda"):  # what building took is over
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = pipe.timing.seconds(blocks)
    *_, last = pipe.stream("anything", seconds=seconds)
    return last.timing.denoise


def chosen(spec: ModelSpec, weights: str, kv_cache: str) -> Choice:
    """The choice that `run` makes."""
    steps = spec.settings.block_sampler.schedule(0).steps
    return Choice(weights=weights, kv_cache=kv_cache, steps=steps, guidance=False)


def free(device: str) -> None:
    """Give back what earlier runs held."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def measure(spec: ModelSpec, device: str) -> bool:
    """Print predicted and measured peaks; returns whether all are near."""
    sizes = counted(PUBLISHED, spec)
    gpu, right = GPUS["h200"], True
    print(f"{'weights, cache':16}{'said GiB':>10}{'is GiB':>10}{'off':>8}{'said s':>9}{'is s':>9}")
    for weights, kv_cache in CHOICES:
        choice = chosen(spec, weights, kv_cache)
        said, speed = memory_of(sizes, choice, gpu), speed_of(sizes, choice, gpu)
        free(device)
        seconds = run(spec, weights, kv_cache, device, spec.settings.window)
        peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else said.peak
        off = said.peak / peak - 1
        right &= abs(off) <= WITHIN
        print(
            f"{weights + ', ' + kv_cache:16}{said.peak / GIB:10.1f}{peak / GIB:10.1f}{off:8.1%}"
            f"{speed.block:9.2f}{seconds:9.2f}"
        )
    return right


def imitate(spec: ModelSpec, device: str) -> bool:
    """Try each card; returns whether what fits is what was said to fit."""
    sizes, right = counted(PUBLISHED, spec), True
    whole = torch.cuda.get_device_properties(0).total_memory
    print(f"\n{'card':>6}  {'weights, cache':16}{'said':>8}{'is':>8}")
    for card in CARDS:
        for weights, kv_cache in CHOICES:
            choice = chosen(spec, weights, kv_cache)
            hardware = replace(GPUS["h200"], memory=min(card * GIB, whole))
            memory = memory_of(sizes, choice, hardware)
            said = fits(memory, hardware)
            room = (hardware.memory - hardware.reserved) / whole
            torch.cuda.set_per_process_memory_fraction(min(room, 1.0))
            free(device)
            began = time.perf_counter()
            try:
                run(spec, weights, kv_cache, device, 2)
                fitted = True
            except torch.OutOfMemoryError:
                fitted = False
            near = abs(memory.peak / (hardware.memory - hardware.reserved) - 1) < WITHIN
            mark = "" if fitted == said else "  near the edge" if near else "  WRONG"
            right &= fitted == said or near
            took = time.perf_counter() - began
            words = {True: "fits", False: "not"}
            print(
                f"{card:4} GB  {weights + ', ' + kv_cache:16}{words[said]:>8}{words[fitted]:>8}"
                f"{took:8.1f} s{mark}",
                flush=True,
            )
    torch.cuda.set_per_process_memory_fraction(1.0)
    return right


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both tables; returns the status of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cards", action="store_true", help="imitate smaller cards only")
    given = parser.parse_args(arguments)
    right = given.cards or measure(LONGLIVE_5B, given.device)
    if given.device.startswith("cuda"):
        right &= imitate(LONGLIVE_5B, given.device)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
