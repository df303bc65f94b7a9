"""Run a benchmark: correctness first, then time.

`longlive bench NAME` is this from the command line; ``prepare`` then ``Prepared.measure`` from
Python. Nothing is written unless ``record.write`` is called with what was measured, or with the
parts of it that ``measure`` gives as they are done.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, assert_never

import torch

from longlive_models import LongLivePipeline
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.precision import in_short
from longlive_models.runtime import Runtime
from longlive_recipes.bench import balanced_sp, pairs, startup
from longlive_recipes.bench.catalog import find
from longlive_recipes.bench.measurements import (
    DEVICE_MEASUREMENTS,
    PIPELINE_MEASUREMENTS,
    DeviceMeasurement,
    PipelineMeasurement,
)
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
    OfPreset,
    PresetOptions,
)
from longlive_recipes.bench.ranks import reset_peak_memory
from longlive_recipes.bench.record import Keep, command_line, not_kept, stamped, table


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A benchmark that can begin: whatever can be refused beforehand has been.

    Attributes:
        name: of the benchmark.
        stem: what its files are called, without their suffixes.
        by_parts: checks, then measures, and gives each part that is done to what it is called with;
            the record as it is stored.
        table: a record as Markdown.
        picture: a record as SVG, of a benchmark that plots.
    """

    name: str
    stem: str
    by_parts: Callable[[Keep], dict[str, Any]]
    table: Callable[[dict[str, Any]], str] = table
    picture: Callable[[dict[str, Any]], str] | None = None

    def measure(self, keep: Keep = not_kept) -> dict[str, Any]:
        """Check, then measure; the record as it is stored.

        Args:
            keep: is called with records of what is done so far, of benchmarks that take minutes:
                they say under ``unfinished`` how far it is.

        Raises:
            AssertionError: a result is wrong; then it is not timed.
        """
        return self.by_parts(keep)


def prepare(name: str, options: Options) -> Prepared:
    """Decide where a benchmark runs, and check that it can.

    Args:
        name: one of ``catalog.BENCHMARKS``.
        options: of the class that the benchmark takes.

    Raises:
        ValueError: no such benchmark, options of another one, a model or a file that is not there,
            sizes that do not go together.
        BackendUnavailable: what was named cannot run on this device.
    """
    benchmark = find(name)
    if type(options) is not type(benchmark.options):
        raise ValueError(
            f"{name} takes {type(benchmark.options).__name__}, got {type(options).__name__}: "
            f"each benchmark has options of its own."
        )
    options.inputs()
    command = command_line(name, options)
    match options:
        case BenchOptions():
            return _prepare_here(name, options, command)
        case BalancedSPOptions():
            compared = balanced_sp.RankComparison.of(options)

            def over_ranks(_: Keep) -> dict[str, Any]:
                found = {"benchmark": name, **balanced_sp.measure(compared, benchmark.about)}
                return stamped(found, compared, torch.device(options.device), command)

            return Prepared(name=name, stem=options.stem(name), by_parts=over_ranks)
        case TrainingStepOptions() | CurvesOptions() | ContinuedOptions():
            return _prepare_training(name, options, command)
        case PairsOptions():
            one, other = (pairs.read(some) for some in (options.one, options.other))
            suites = pairs.compare(one, other)

            def paired(_: Keep) -> dict[str, Any]:
                return {"suites": suites, **pairs.sides(one, other), "command": command}

            return Prepared(
                name=name, stem=options.stem(name), by_parts=paired, table=pairs.as_markdown
            )
        case StartupOptions(against=against):
            assert against is not None, "its inputs were looked at"
            hidden = startup.without_paths(options)

            def started(_: Keep) -> dict[str, Any]:
                about = {"benchmark": name, "about": benchmark.about}
                found = about | startup.measure(against, options.repeats)
                line = command_line(name, hidden)
                return stamped(found, hidden, torch.device("cpu"), line)

            return Prepared(name=name, stem=options.stem(name), by_parts=started)
        case PresetOptions() | InvarianceOptions() | BackendsOptions():
            return _prepare_of_preset(name, options, command)
        case _:
            assert_never(options)


def _prepare_training(
    name: str, options: TrainingStepOptions | CurvesOptions | ContinuedOptions, command: str
) -> Prepared:
    """A benchmark that trains. What trains takes seconds to load, so it is loaded here."""
    from longlive_recipes.bench import nvfp4_continued, nvfp4_curves, training_step

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{name} on cuda needs a GPU, and this host has none: write --device cpu.")
    about = find(name).about
    told: Any = options
    table_of, picture = table, None
    measure: Callable[[Keep], dict[str, Any]]
    match options:
        case TrainingStepOptions():
            told = training_step.StepComparison.of(options)
            measure = partial(training_step.measure, told, about)
        case CurvesOptions():
            measure, picture = partial(nvfp4_curves.measure, options, about), nvfp4_curves.drawn
        case ContinuedOptions():
            measure = partial(nvfp4_continued.measure, options, about)
            table_of = nvfp4_continued.as_markdown
        case _:
            assert_never(options)

    def whole(found: dict[str, Any]) -> dict[str, Any]:
        return stamped({"benchmark": name, **found}, told, torch.device(options.device), command)

    def measured(keep: Keep) -> dict[str, Any]:
        return whole(measure(lambda found: keep(whole(found))))

    return Prepared(
        name=name, stem=options.stem(name), by_parts=measured, table=table_of, picture=picture
    )


def _prepare_of_preset(name: str, options: OfPreset, command: str) -> Prepared:
    """A benchmark at a preset's sizes, on a device that is known from here on."""
    from longlive_recipes.bench import backends
    from longlive_recipes.bench.invariance.measure import measure as invariance
    from longlive_recipes.bench.preset.earlier import check_tree
    from longlive_recipes.bench.preset.measure import measure as preset

    kind = options.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    timed = options.ranks if isinstance(options, PresetOptions) else 1
    if kind == "cuda" and torch.cuda.device_count() < max(timed, 1):
        raise ValueError(
            f"{name} on {timed} GPU(s), and this host has {torch.cuda.device_count()}: write "
            f"--device cpu, or fewer --ranks."
        )
    device, about = torch.device(kind), find(name).about
    told = replace(options, device=kind)
    measure: Callable[[Keep], dict[str, Any]]
    match told:
        case PresetOptions():
            if told.earlier is not None:
                check_tree(told.earlier)
            measure = partial(preset, told, device, about)
        case InvarianceOptions():
            measure = _in_one_part(partial(invariance, told, device, about))
        case BackendsOptions():
            measure = _in_one_part(partial(backends.measure, told, device, about))
        case _:
            assert_never(told)

    def whole(found: dict[str, Any]) -> dict[str, Any]:
        return stamped({"benchmark": name, **found}, told, device, command)

    def measured(keep: Keep) -> dict[str, Any]:
        return whole(measure(lambda found: keep(whole(found))))

    stem = told.stem(name)
    assert stem is not None, "the device is known"
    return Prepared(name=name, stem=stem, by_parts=measured)


def _in_one_part(measure: Callable[[], dict[str, Any]]) -> Callable[[Keep], dict[str, Any]]:
    """A measurement that gives no part before it is done."""
    return lambda _: measure()


def _prepare_here(name: str, options: BenchOptions, command: str) -> Prepared:
    """A benchmark of one model or of one device."""
    runtime = Runtime.choose(options)
    about = {"benchmark": name, "about": find(name).about}

    if name in DEVICE_MEASUREMENTS:
        of_device = DEVICE_MEASUREMENTS[name]

        def measure(_: Keep) -> dict[str, Any]:
            found = _of_device(of_device, options, runtime)
            return stamped(about | found, options, runtime.device, command)

    else:
        of_pipeline = PIPELINE_MEASUREMENTS[name]
        runtime.check(read_spec(resolve(options.model)).transformer)

        def measure(_: Keep) -> dict[str, Any]:
            found = _of_pipeline(of_pipeline, options, runtime)
            return stamped(about | found, options, runtime.device, command)

    return Prepared(name=name, stem=f"{name}_{runtime.device.type}", by_parts=measure)


def _of_device(
    measurement: DeviceMeasurement, options: BenchOptions, runtime: Runtime
) -> dict[str, Any]:
    checked = measurement.check(runtime.device, options)
    return {
        "rows": measurement.measure(runtime.device, options),
        "checked": checked,
        "backends": measurement.backends(runtime.device, options),
    }


def _of_pipeline(
    measurement: PipelineMeasurement, options: BenchOptions, runtime: Runtime
) -> dict[str, Any]:
    """Load the model, check, measure."""
    began = time.perf_counter()
    pipe = LongLivePipeline.load(options.model, runtime)
    loaded = time.perf_counter() - began
    for device in {pipe.runtime.device, pipe.runtime.decode_device}:
        reset_peak_memory(device)  # another benchmark may have run before
    checked = measurement.check(pipe, options)
    return {
        "rows": measurement.measure(pipe, options),
        "load_seconds": loaded,
        "checked": checked,
        "settings": pipe.settings.override(
            steps=options.steps, guidance=options.guidance
        ).to_dict(),
        "placement": pipe.runtime.to_dict(),
        "backends": list(in_short(pipe.receipts())),
        "model_sha256": pipe.fingerprint,
    }
