"""What can be measured. Each benchmark first shows that what it times is right, then times it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.generation import check_generation, measure_generation
from benchmarks.kv_decode import check_kv_decode, kv_decode_backends, measure_kv_decode
from benchmarks.linear import check_linear, linear_backends, measure_linear
from benchmarks.nvfp4 import check_nvfp4, measure_nvfp4, nvfp4_backends
from benchmarks.options import Options, Rows
from benchmarks.vae_decode import check_vae_decode, measure_vae_decode
from longlive_models import LongLivePipeline


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One thing to measure of a pipeline.

    Attributes:
        name: what it is called on the command line and in ``results/``.
        about: what the numbers include, in a sentence.
        check: raises AssertionError where results are wrong; its return says what was compared.
        measure: a row of numbers for each case.
    """

    name: str
    about: str
    check: Callable[[LongLivePipeline, Options], str]
    measure: Callable[[LongLivePipeline, Options], Rows]


@dataclass(frozen=True, kw_only=True)
class DeviceBenchmark:
    """One thing to measure of a device, without a model.

    Attributes:
        name, about, check, measure: as ``Benchmark`` has them, of a device.
        backends: what does the work there, and why nothing faster does.
    """

    name: str
    about: str
    check: Callable[[torch.device, Options], str]
    measure: Callable[[torch.device, Options], Rows]
    backends: Callable[[torch.device, Options], list[str]]


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="generation",
            about="One video end to end: text, denoising, VAE decoding, frames on the CPU; no "
            "file. Loading is apart. Steady speed is from the first block whose window is full, "
            "or else from the second one, to the last.",
            check=check_generation,
            measure=measure_generation,
        ),
        Benchmark(
            name="vae_decode",
            about="Streaming VAE decoding of one block of latents at a time, frames as bytes on "
            "the CPU: the median of the repeats.",
            check=check_vae_decode,
            measure=measure_vae_decode,
        ),
        DeviceBenchmark(
            name="kv_decode",
            about="Decoding all pages that one layer sees, keys and values, from the cache's "
            "formats to bfloat16, against a copy of as many decoded bytes: bytes read and written "
            "over the median time. Encoding, in the last column, is of one page of each.",
            check=check_kv_decode,
            measure=measure_kv_decode,
            backends=kv_decode_backends,
        ),
        DeviceBenchmark(
            name="nvfp4",
            about="A bfloat16 matrix, the keys that one layer sees, to NVFP4 and back with amax "
            "given, and amax itself, against a copy: bytes that have to be read and written once, "
            "over the median time.",
            check=check_nvfp4,
            measure=measure_nvfp4,
            backends=nvfp4_backends,
        ),
        DeviceBenchmark(
            name="linear",
            about="One linear of a block, its weight plain, in eight bits and in four, for the "
            "tokens of a page, a sixteenth of them, and one row. Weights are quantized beforehand, "
            "activations at each call.",
            check=check_linear,
            measure=measure_linear,
            backends=linear_backends,
        ),
    )
}


def find(name: str) -> Benchmark | DeviceBenchmark:
    """The benchmark of this name. Raises ValueError with the names that exist."""
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}: there are {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]
