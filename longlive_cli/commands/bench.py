"""`longlive bench`: how fast things are, once they have been shown to be right."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longlive_cli import complete, options
from longlive_cli.boundary import FAILED
from longlive_cli.launcher import check_ranks
from longlive_cli.messages import in_one_line, note, say, show, spinning
from longlive_cli.option_groups import with_groups
from longlive_cli.refusals import option_of, refuse_beside
from longlive_cli.suites import check_page, write_page
from longlive_recipes.generation.interrupts import Stoppable

if TYPE_CHECKING:
    from longlive_recipes.bench.options import Options
    from longlive_recipes.bench.run import Prepared


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="What to measure, one after another; none: list what there is.",
        autocompletion=complete.benchmarks,
    ),
]
Seconds = Annotated[
    float | None, typer.Option(help="How long the video of `generation` lasts.  [default: 20]")
]
Repeats = Annotated[
    int | None,
    typer.Option(help="How often a thing is timed.  [default: the benchmark's, mostly 5]"),
]
Listed = Annotated[bool, typer.Option("--list", help="List the benchmarks, and measure nothing.")]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Measure one model's stages apart and together: 5b or pocket. The same as `preset`."
    ),
]
Invariance = Annotated[
    bool,
    typer.Option(
        "--invariance",
        help="Tell whether bits depend on what is computed beside. The same as `invariance`.",
    ),
]
Baseline = Annotated[
    bool | None,
    typer.Option("--baseline/--no-baseline", help="Time the plain path too, in turns."),
]
Ranks = Annotated[
    int | None,
    typer.Option(help="2: decode on a second GPU too; of --invariance: share a block by so many."),
]
Earlier = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Time a block of another commit's packages too, in turns."),
]


@with_groups
def bench(
    names: Names = None,
    listed: Listed = False,
    preset: Preset = None,
    invariance: Invariance = False,
    baseline: Baseline = None,
    ranks: Ranks = None,
    earlier: Earlier = None,
    model: options.Model = None,
    seconds: Seconds = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    repeats: Repeats = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change another field; they are listed below.",
            autocompletion=complete.bench_fields,
        ),
    ] = None,
    config: options.Config = None,
    runtime: dict[str, Any] | None = None,
    output: options.ResultFolder = None,
    html: options.Page = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line a benchmark instead of a table.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Check everything, print the options, measure nothing.")
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure the named benchmarks on this machine: correctness first, then time.

    A result that is wrong is not timed. Numbers are worth what the machine does beside them: let
    it do nothing else.
    """
    check_ranks(1)
    names = _named(names, preset, invariance, listed)
    given = {
        "model": model,
        "seconds": seconds,
        "steps": steps,
        "guidance": guidance,
        "repeats": repeats,
        "preset": preset,
        "baseline": baseline,
        "ranks": ranks,
        "earlier": earlier,
        **(runtime or {}),
    }
    if listed or not names:
        beside = given | {"set": overrides, "config": config, "output": output, "html": html}
        beside = {option_of(name): value for name, value in beside.items()}
        _list(names or (), beside, as_json)
        return
    wanted = _configure(names, config, overrides, given)
    reads = [read for one in wanted.values() for read in one.inputs()]
    reads += [("--config", config)] if config else []
    if output is not None:
        _check_output(
            output, {name: one.stem(name) for name, one in wanted.items()}, reads, overwrite
        )

    check_page(html, reads, overwrite)

    from longlive_recipes.bench.run import prepare

    prepared = [prepare(name, one) for name, one in wanted.items()]
    if output is not None:
        _check_output(output, {one.name: one.stem for one in prepared}, reads, overwrite)
    if dry_run:
        show(wanted, as_json=as_json)
        return
    with Stoppable():
        _measure(prepared, output, as_json, html)


def _named(
    names: list[str] | None, preset: str | None, invariance: bool, listed: bool
) -> list[str] | None:
    """The benchmarks that are meant: `--invariance` and `--preset` are ones by themselves."""
    if not invariance and preset is None:
        return names
    if invariance:
        option, meant, known = "--invariance", "invariance", ["invariance"]
    else:
        option, meant, known = "--preset", "preset", ["preset", "invariance", "backends"]
    others = ["--list"] if listed else [name for name in names or () if name not in known]
    if others:
        raise ValueError(
            f"{option} is a benchmark of its own, or an option of {', '.join(known)}: it does not "
            f"go with {others[0]}. Leave one side out."
        )
    return names or [meant]


def _list(names: Sequence[str], given: Mapping[str, Any], as_json: bool) -> None:
    """Name every benchmark; ``given`` are options of measuring, which would not be looked at."""
    from longlive_recipes.bench.catalog import BENCHMARKS, lines

    refuse_beside("the list of benchmarks", given, "nothing is measured without a NAME")
    if names:
        raise ValueError(
            f"--list names every benchmark, and {names[0]} is one to be run. Leave one side out."
        )
    if as_json:
        say(json.dumps([{"benchmark": one.name, "about": one.line} for one in BENCHMARKS.values()]))
        return
    say("\n".join(lines()))


def _configure(
    names: Sequence[str],
    config: Path | None,
    overrides: list[str] | None,
    given: Mapping[str, Any],
) -> "dict[str, Options]":
    """The options of each benchmark.

    Raises ValueError for an unknown benchmark or field, and for an option that none looks at.
    """
    from longlive_cli.overrides import apply_mapping, configure, gather, refuse_given_twice
    from longlive_recipes.bench.catalog import find, refuse_unread

    changes = {name: value for name, value in given.items() if value is not None}
    refuse_given_twice(changes, overrides)
    found = {name: find(name).options for name in names}
    wanted = {
        name: configure(apply_mapping(configure(usual, config), changes), overrides=overrides)
        for name, usual in found.items()
    }
    refuse_unread(names, [*changes, *gather(overrides=overrides)])
    return wanted


def _check_output(
    folder: Path, stems: Mapping[str, str | None], reads: list[tuple[str, Path]], overwrite: bool
) -> None:
    """Raise ValueError if a record would replace an input, or a file without ``overwrite``."""
    from longlive_recipes.bench.catalog import UNFINISHED, find, record_files
    from longlive_recipes.generation.inputs import refuse_inputs
    from longlive_recipes.generation.outputs import check_writable

    for name, stem in stems.items():
        known = () if stem is None else (stem, stem + UNFINISHED)
        files = [record_files(folder, one, plots=find(name).plots) for one in known]
        for path in (path for some in files for path in some):
            refuse_inputs([("a record", path)], reads, option="--output")
            if path.is_dir() or (path.exists() and not overwrite):
                raise ValueError(
                    f"{path} exists: pass --overwrite to replace it, or another --output."
                )
            check_writable(path, "output")


def _measure(
    prepared: "Sequence[Prepared]", output: Path | None, as_json: bool, html: Path | None
) -> None:
    """Run benchmarks, print and store each as it ends; exits with FAILED if a result is wrong."""
    from longlive_recipes.bench.catalog import find
    from longlive_recipes.bench.record import Unfinished, write

    written: list[str] = []
    records: list[dict[str, Any]] = []
    wrong, parts = False, Unfinished(None, "", str)
    try:
        for each in prepared:
            parts = Unfinished(output, each.stem, each.table, each.picture)
            try:
                with spinning(f"{each.name}: checked, then timed"):
                    record = each.measure(parts.keep)
            except AssertionError as error:
                wrong = True
                found = in_one_line(str(error))
                note(f"longlive: {each.name} gives a wrong result, and is not timed: {found}")
                continue
            records.append({"benchmark": each.name, "about": find(each.name).about, **record})
            text = each.table(record)
            say(json.dumps(record) if as_json else text)
            if output is not None:
                picture = None if each.picture is None else each.picture(record)
                written += map(str, write(record, text, output, each.stem, picture))
                parts.remove()
    except (Exception, KeyboardInterrupt) as error:
        written += map(str, parts.paths)
        if written:
            error.add_note(f"Before that, {', '.join(written)} were written.")
        raise
    if html is not None and records:
        from longlive_recipes.evaluation.pages import bench_page

        write_page(html, bench_page(records))
    if written:
        note(f"longlive: written to {', '.join(written)}")
    if wrong:
        raise typer.Exit(FAILED)
