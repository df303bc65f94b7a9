"""Which benchmarks there are, with what each takes and what its numbers include; no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from longlive_core.checks import shown
from longlive_core.names import did_you_mean
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes.bench.options import (
    BalancedSPOptions,
    BenchOptions,
    ContinuedOptions,
    CurvesOptions,
    Options,
    PairsOptions,
    StartupOptions,
    TrainingStepOptions,
)
from longlive_recipes.bench.preset_options import (
    BackendsOptions,
    InvarianceOptions,
    PresetOptions,
)

OF_A_MODEL = ("model", *(field.name for field in fields(RuntimeOptions)))
"""The fields of ``BenchOptions`` that say which model runs, and how."""

OF_A_LAYER = ("device", "repeats", "page_tokens", "heads", "head_dim", "pages")
"""Those that say how large one layer is, and how often it is timed."""

UNFINISHED = ".unfinished"
"""What stands behind the stem of the files of a benchmark that goes on, or was stopped."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One thing that can be measured.

    Attributes:
        name: what it is called on the command line and in the files that it writes.
        line: what it measures, in a line.
        about: what the numbers include, as its record says it.
        options: what it takes where nothing is given.
        reads: the fields of its options that it looks at; None: all of them.
        left_open: whose number holds where a field is none.
        plots: whether its record comes with a picture.
    """

    name: str
    line: str
    about: str
    options: Options = BenchOptions()
    reads: tuple[str, ...] | None = None
    left_open: str = "the model's"
    plots: bool = False


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="generation",
            line="one video end to end: seconds to the first frame, frames a second, memory",
            about="One video end to end: text, denoising, VAE decoding, frames on the CPU; no "
            "file. Loading is apart. Steady speed is from the first block whose window is full, "
            "or else from the second one, to the last.",
            reads=(*OF_A_MODEL, "seconds", "steps", "guidance"),
        ),
        Benchmark(
            name="vae_decode",
            line="streaming VAE decoding, a block at a time",
            about="Streaming VAE decoding of one block of latents at a time, frames as bytes on "
            "the CPU: the median of the repeats.",
            reads=(*OF_A_MODEL, "repeats"),
        ),
        Benchmark(
            name="kv_decode",
            line="one layer's pages from NVFP4, FP8 and INT8 to bfloat16, beside a copy",
            about="Decoding all pages that one layer sees, keys and values, from the cache's "
            "formats to bfloat16, against a copy of as many decoded bytes: bytes read and written "
            "over the median time. Encoding, in the last column, is of one page of each.",
            reads=OF_A_LAYER,
        ),
        Benchmark(
            name="nvfp4",
            line="quantizing and decoding a large matrix, and its amax, beside a copy",
            about="A bfloat16 matrix, the keys that one layer sees, to NVFP4 and back with amax "
            "given, and amax itself, against a copy: bytes that have to be read and written once, "
            "over the median time.",
            reads=OF_A_LAYER,
        ),
        Benchmark(
            name="linear",
            line="a product with its weight in bfloat16, FP8 and NVFP4, for many rows and few",
            about="One linear of a block, its weight plain, in eight bits and in four, for the "
            "tokens of a page, a sixteenth of them, and one row. Weights are quantized beforehand, "
            "activations at each call.",
            reads=OF_A_LAYER,
        ),
        Benchmark(
            name="balanced_sp",
            line="a training step, a block, its wires and a video over ranks of this host",
            about="One video over ranks of one host; times are those of the slowest rank. A "
            "training step is the forward and backward pass of the teacher-forcing loss, without "
            "averaging of gradients and optimizer. Balanced: a rank holds both copies of its "
            "frames, and encodes them with a halo. Unbalanced: all clean tokens, then all noisy "
            "ones, are dealt out, and each rank encodes the whole clip. Efficiency is t(1) / (P "
            "t(P)); bytes are those that one rank sends to others.",
            options=BalancedSPOptions(),
            left_open="the device's",
        ),
        Benchmark(
            name="training_step",
            line="a training step whose blocks run again in the backward pass, attention or not",
            about="The forward and backward pass of the teacher-forcing loss, without encoding and "
            "the optimizer, on one device. Steps take turns, and the medians are compared. "
            "Differences are from the step whose blocks run again as a whole; of that step, from "
            "a second run of it. Memory is the peak of a step, weights and gradients in it.",
            options=TrainingStepOptions(),
            left_open="the device's",
        ),
        Benchmark(
            name="nvfp4_curves",
            line="the pocket trained from nothing in bfloat16 and NVFP4: curves of every rule",
            about="Runs with the same first weights, batches, noise and steps: bfloat16, and NVFP4 "
            "with two rules for gradients, rounded at random or to nearest, with and without the "
            "Hadamard transform. The loss is that of averaged weights on fixed clips, each run in "
            "its own arithmetic; the standard error is of the percent above bfloat16, over pairs "
            "under the same noise. Runs share the device, so seconds are no speeds.",
            options=CurvesOptions(),
            plots=True,
        ),
        Benchmark(
            name="nvfp4_continued",
            line="a finished teacher trained on in NVFP4 and in bfloat16, packed, judged in pairs",
            about="Both continuations begin with the teacher's weights and have the same batches, "
            "noise and steps; one trains in bfloat16, the other in NVFP4. Both are packed alike, "
            "and make the same videos from the same prompts and seeds.",
            options=ContinuedOptions(),
            left_open="the teacher's",
        ),
        Benchmark(
            name="pairs",
            line="two evaluations of the same prompts and seeds, compared video by video",
            about="What only one of two models, or of two precisions of one, gets right.",
            options=PairsOptions(),
        ),
        Benchmark(
            name="startup",
            line="importing longlive_core and `longlive --help`, beside another environment's",
            about="A new process of Python that imports the core, with its primitives (which "
            "import torch) or without, or shows the command's help. The two commits take turns. "
            "Seconds from start to end, and seconds of processor time, which depend less on what "
            "else the machine does.",
            options=StartupOptions(),
            left_open="it has to be named",
        ),
        Benchmark(
            name="preset",
            line="one model's stages apart and together, in every quality; what --preset means",
            about="Configurations take turns, so medians are of neighbors in time. A block is its "
            "steps and the clean pass, over a full window; decoding is of a block's latents to "
            "bytes on the host; end to end both overlap, text encoding is apart. Every "
            "configuration first makes a window whose latents are compared with the plain path's: "
            "one that is outside its tier has no time. Ceilings are of the same run: a share is "
            "the time of products and attention at the speed of each alone, over the time taken. "
            "Memory is what torch counts, of the configuration alone.",
            options=PresetOptions(),
        ),
        Benchmark(
            name="invariance",
            line="whether bits of a row depend on how many stand beside it; --invariance",
            about="Each operation at the model's sizes, of all rows (queries, heads, frames) and "
            "of some of them alone, the first ones and the last ones: whether the same rows have "
            "the same bits. An operation whose rows do can be split over ranks, or into pieces, "
            "without changing a byte.",
            options=InvarianceOptions(),
        ),
        Benchmark(
            name="backends",
            line="every backend of attention and of quantized products: error, speed, or why not",
            about="Each backend at the model's sizes: its distance from a reference in float64, "
            "relative to it, and operations a second; for one that cannot run, why.",
            options=BackendsOptions(),
        ),
    )
}


def find(name: str) -> Benchmark:
    """The benchmark of this name. Raises ValueError with the names that exist."""
    if name not in BENCHMARKS:
        raise ValueError(
            f"there is no benchmark {shown(name)}{did_you_mean(name, BENCHMARKS)}The "
            f"benchmarks: {', '.join(BENCHMARKS)}."
        )
    return BENCHMARKS[name]


def refuse_unread(names: Iterable[str], given: Iterable[str]) -> None:
    """Raise ValueError for a field among ``given`` that none of the benchmarks looks at."""
    chosen = [find(name) for name in names]
    for field in given:
        if all(one.reads is not None and field not in one.reads for one in chosen):
            readers = [one.name for one in BENCHMARKS.values() if field in (one.reads or ())]
            raise ValueError(
                f"{field} changes nothing of {', '.join(one.name for one in chosen)}: it is for "
                f"{', '.join(readers)}. Leave it out."
            )


def lines() -> list[str]:
    """Every benchmark in a line: its name, and what it measures."""
    width = max(map(len, BENCHMARKS))
    return [f"{one.name:{width}}  {one.line}" for one in BENCHMARKS.values()]


def record_files(folder: Path, stem: str, *, plots: bool = False) -> tuple[Path, ...]:
    """Where the record and the table of one benchmark go: JSON, Markdown, and SVG if it plots."""
    suffixes = ("json", "md", "svg") if plots else ("json", "md")
    return tuple(folder / f"{stem}.{suffix}" for suffix in suffixes)
