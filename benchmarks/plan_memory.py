"""What `longlive plan` says of LongLive-2.0-5B's memory and time, against a GPU that runs it.

    python benchmarks/plan_memory.py            # a GPU of 80 GB or more, about two minutes
    python benchmarks/plan_memory.py --times    # the first two tables alone, under a minute

The full-size model without its text encoder, of random weights, in each precision: the peak that
torch counts while decoding runs beside denoising, and the seconds from block to block; then the
seconds of denoising and of decoding a block, one after the other, for beside each other both take
longer. Then cards of 12 to 141 GB are imitated by torch's per-process memory fraction: what is said
to fit must run, and what is not must end for want of memory. A table of each is printed; the status
is 1 where a prediction is wrong.
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
MEASURED = 3
"""Blocks that are timed after those that fill the window."""


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


def build(
    spec: ModelSpec, weights: str, kv_cache: str, device: str, lane: str = "auto"
) -> LongLivePipeline:
    """A pipeline of random weights on the device, without a text encoder."""
    options = RuntimeOptions(device=device, weights=weights, kv_cache=kv_cache, lane=lane)
    runtime = Runtime.choose(options)
    with unfilled():
        transformer, vae = WanTransformer(spec.transformer), WanVAE(spec.vae)
    for name, module in (("transformer", transformer), ("vae", vae)):
        fill(module, drawn(name, module), "random weights")
    vae.reset_statistics()
    wan = spec.transformer
    text = NoText(wan.text_len, wan.text_dim, runtime.device)
    return LongLivePipeline(transformer, vae, text, settings=spec.settings, runtime=runtime)


@dataclass(frozen=True)
class Seconds:
    """What blocks took: denoising and decoding one, and from one to the next."""

    denoise: float
    decode: float
    between: float


def run(
    spec: ModelSpec,
    weights: str,
    kv_cache: str,
    device: str,
    blocks: int,
    *,
    lane: str = "auto",
) -> Seconds:
    """Make some blocks of video; returns the least seconds of the last ones."""
    pipe = build(spec, weights, kv_cache, device, lane)
    if device.startswith("cuda"):  # what building took is over
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = pipe.timing.seconds(blocks)
    made, times = [], []
    for block in pipe.stream("anything", seconds=seconds):
        times.append(time.perf_counter())
        made.append(block.timing)
    between = [after - before for before, after in zip(times, times[1:], strict=False)]
    last = made[-MEASURED:]
    return Seconds(
        denoise=min(one.denoise for one in last),
        decode=min(one.decode for one in last),
        between=sum(between[-MEASURED:]) / len(between[-MEASURED:]),
    )


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
    """Print predicted and measured peaks and seconds; returns whether all are near."""
    sizes, on_gpu = counted(PUBLISHED, spec), device.startswith("cuda")
    gpu, right, blocks = GPUS["h200"], True, spec.settings.window + MEASURED
    print(f"{'weights, cache':16}{'said GiB':>10}{'is GiB':>10}{'off':>8}", end="")
    print(f"{'from block to block, said s':>30}{'is s':>8}{'off':>8}")
    for weights, kv_cache in CHOICES:
        choice = chosen(spec, weights, kv_cache)
        said, speed = memory_of(sizes, choice, gpu), speed_of(sizes, choice, gpu)
        free(device)
        seconds = run(spec, weights, kv_cache, device, blocks).between
        peak = torch.cuda.max_memory_allocated() if on_gpu else said.peak
        off, late = said.peak / peak - 1, speed.together / seconds - 1
        right &= abs(off) <= WITHIN and (abs(late) <= WITHIN or not on_gpu)
        print(
            f"{weights + ', ' + kv_cache:16}{said.peak / GIB:10.1f}{peak / GIB:10.1f}{off:8.1%}"
            f"{speed.together:30.2f}{seconds:8.2f}{late:8.1%}",
            flush=True,
        )
    print(f"\n{'one at a time':16}{'denoising':>16}{'is s':>8}{'off':>8}", end="")
    print(f"{'decoding':>16}{'is s':>8}{'off':>8}")
    for weights, kv_cache in CHOICES:
        speed = speed_of(sizes, chosen(spec, weights, kv_cache), gpu)
        free(device)
        took = run(spec, weights, kv_cache, device, blocks, lane="inline")
        print(f"{weights + ', ' + kv_cache:16}", end="")
        for said_s, is_s in ((speed.block, took.denoise), (speed.decoding, took.decode)):
            off = said_s / is_s - 1
            right &= abs(off) <= WITHIN or not on_gpu
            print(f"{said_s:16.2f}{is_s:8.2f}{off:8.1%}", end="")
        print(flush=True)
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
            near = abs(memory.needed / (hardware.memory - hardware.reserved) - 1) < WITHIN
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
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--cards", action="store_true", help="imitate smaller cards only")
    only.add_argument("--times", action="store_true", help="imitate none")
    given = parser.parse_args(arguments)
    right = given.cards or measure(LONGLIVE_5B, given.device)
    if given.device.startswith("cuda") and not given.times:
        right &= imitate(LONGLIVE_5B, given.device)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
