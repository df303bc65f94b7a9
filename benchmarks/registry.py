"""What can be measured. Each benchmark first shows that what it times is right, then times it."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.generation import check_generation, measure_generation
from benchmarks.options import Options, Rows
from benchmarks.vae_decode import check_vae_decode, measure_vae_decode
from longlive_models import LongLivePipeline


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One thing to measure.

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
    )
}


def find(name: str) -> Benchmark:
    """The benchmark of this name. Raises ValueError with the names that exist."""
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}: there are {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]
