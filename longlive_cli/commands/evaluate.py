"""`longlive evaluate`: a model's scores, or the judge's verdicts on existing videos."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longlive_cli import complete
from longlive_cli.boundary import name_of
from longlive_cli.launcher import check_ranks
from longlive_cli.messages import note, say, show
from longlive_cli.option_groups import with_groups
from longlive_cli.options import Page, ResultFile
from longlive_cli.refusals import option_of, refuse_beside
from longlive_cli.suites import (
    as_drift_result,
    check_page,
    check_suite,
    measure_drift,
    prepare_vbench,
    require_videos,
    write_page,
)
from longlive_recipes.generation.interrupts import Stoppable

if TYPE_CHECKING:
    from longlive_recipes.evaluation.drift import Drift
    from longlive_recipes.moving_shapes.judge import ClipVerdict, ShotVerdict


Videos = Annotated[
    list[Path] | None,
    typer.Argument(help="Videos to judge, or folders of frames; none: evaluate a model."),
]
Suite = Annotated[
    str,
    typer.Option(
        help="What is measured of videos: shapes (verdicts on moving shapes), drift (the last 15 % "
        "of any video against its first), or vbench (its folder and prompts, from "
        "VBench_full_info.json).",
        autocompletion=complete.among("shapes", "drift", "vbench"),
    ),
]


@with_groups
def evaluate(
    videos: Videos = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"What to evaluate; recipes are listed below.  [default: {complete.EVALUATION}]",
            autocompletion=complete.recipes("evaluate"),
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a field.",
            autocompletion=complete.evaluate_fields,
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of fields.")] = None,
    runtime: dict[str, Any] | None = None,
    suite: Suite = "shapes",
    output: ResultFile = None,
    html: Page = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second of the videos; a file says its own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Print the config, or the videos, and evaluate nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
) -> None:
    """Judge, from pixels alone, shape, color, background, motion, cuts, steadiness and drift."""
    check_ranks(1)
    check_suite(suite, videos or ())
    if videos:
        _refuse_of_a_model(runtime or {}, recipe, overrides, config)
        require_videos(videos)
        _measure(videos, suite, as_json, fps, output, html, overwrite=overwrite, dry_run=dry_run)
        return
    if fps is not None:
        raise ValueError(
            f"--fps {fps:g} is the rate of videos that are there, and none is named: those that a "
            f"model makes have its own. Leave it out, or name videos."
        )
    from longlive_cli.catalog import find, presets
    from longlive_cli.overrides import apply_mapping, configure, refuse_given_twice
    from longlive_models.checkpoints.hub import resolve

    preset = find(recipe or complete.EVALUATION, [p for p in presets() if p.recipe == "evaluate"])
    refuse_given_twice(runtime or {}, overrides)
    chosen = apply_mapping(configure(preset.build(), config), runtime or {})
    wanted = configure(chosen, overrides=overrides)
    folder = resolve(wanted.model)
    reads = [("the model", folder), *([("--config", config)] if config else [])]
    check_page(html, reads, overwrite)
    if output is not None:
        _check_result(output, reads, overwrite)

    from longlive_models.checkpoints.model_folder import read_spec
    from longlive_models.loading import check_beside
    from longlive_models.runtime import Runtime

    decided, spec = Runtime.choose(wanted), read_spec(folder)
    decided.check(spec.transformer)
    check_beside(folder, spec, decided)
    if dry_run:
        show(wanted, as_json=as_json)
        return
    run = partial(preset.module.run, wanted, runtime=decided)
    with Stoppable():
        _evaluate(run, output, as_json, html)


def _evaluate(
    run: Callable[..., dict[str, Any]], output: Path | None, as_json: bool, html: Path | None
) -> None:
    """Evaluate a model, store each suite's scores as it ends, and print all of them."""
    from longlive_cli.progress import VideoCount

    def stored(result: dict[str, Any]) -> None:
        if output is not None:
            _store(result, output)
        if not result["complete"]:
            name = list(result["suites"])[-1]
            scores = result["suites"][name]
            numbers = {n: v for n, v in scores.items() if isinstance(v, int | float)}
            told = (f"{n.replace('_', ' ')} {_number(v)}" for n, v in numbers.items())
            note(f"longlive: {name}: {', '.join(told)}")

    with VideoCount() as count:
        result = run(made=count, stored=stored)
    stored(result)
    say(json.dumps(result) if as_json else table(result["suites"]))
    if html is not None:
        from longlive_recipes.evaluation.pages import scores_page

        write_page(html, scores_page(result))
    if not result["complete"]:
        status = 128 + result["signal"]
        note(f"longlive: {name_of(status)}; suites that had ended are above.")
        raise typer.Exit(status)


def _measure(
    videos: list[Path],
    suite: str,
    as_json: bool,
    fps: float | None,
    output: Path | None,
    html: Path | None,
    *,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Measure existing videos with a suite; of a dry run, say which."""
    inputs = [(str(video), video) for video in videos]
    if suite == "vbench":
        given = {"--html": html, "--fps": fps, "--json": as_json, "--overwrite": overwrite}
        refuse_beside("--suite vbench", given, "it prepares a new folder, and measures nothing")
    else:
        check_page(html, inputs, overwrite)
        if output is not None:
            _check_result(output, inputs, overwrite)
    if dry_run:
        show({"suite": suite, "videos": list(map(str, videos))}, as_json=as_json)
        return
    if suite == "vbench":
        prepare_vbench(videos[0], Path("vbench") if output is None else output)
        return
    judge = _judge if suite == "shapes" else _drift
    judge(videos, as_json, fps, output, html)


def _refuse_of_a_model(
    runtime: dict[str, Any],
    recipe: str | None,
    overrides: list[str] | None,
    config: Path | None,
) -> None:
    """Raise ValueError for options of evaluating a model: measuring videos runs none."""
    if runtime:
        raise ValueError(
            f"{', '.join(map(option_of, runtime))}: that is how a model runs, and videos are "
            f"judged from their pixels alone. Leave it out, or name no videos."
        )
    given = {"--recipe": recipe, "--set": overrides, "--config": config}
    refuse_beside("videos", given, "these options are about evaluating a model")


def _check_result(output: Path, reads: list[tuple[str, Path]], overwrite: bool) -> None:
    """Raise ValueError if the result would replace an input, or a file without ``overwrite``."""
    from longlive_recipes.generation.inputs import refuse_inputs
    from longlive_recipes.generation.outputs import check_writable

    refuse_inputs([("the result", output)], reads, option="--output")
    if output.is_dir() or (output.exists() and not overwrite):
        raise ValueError(f"{output} exists: pass --overwrite to replace it, or another --output.")
    check_writable(output, "output")


def _store(result: Any, output: Path) -> None:
    """Write a result as JSON; if that fails, the file stays as it was."""
    from longlive_recipes.run_record import replace_file

    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, json.dumps(result, indent=2) + "\n")


def table(suites: dict[str, dict[str, Any]]) -> str:
    """Scores as a Markdown table, with a row for each suite and a column for each number."""
    names = {
        name: None
        for scores in suites.values()
        for name, value in scores.items()
        if isinstance(value, int | float)
    }
    rows = [["suite", *(name.replace("_", " ") for name in names)]]
    rows.append(["---"] * len(rows[0]))
    for suite, scores in suites.items():
        rows.append([suite, *(_number(scores.get(name)) for name in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _number(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _drift(
    videos: list[Path], as_json: bool, fps: float | None, output: Path | None, html: Path | None
) -> None:
    done = 0

    def measured(found: "Mapping[Path, Drift]") -> None:
        nonlocal done
        done = len(found)
        if output is not None:
            _store(as_drift_result(found), output)

    with _counted(lambda: done, len(videos), "measured"), Stoppable():
        found = measure_drift(videos, fps, as_json, measured)
    if html is not None:
        from longlive_recipes.evaluation.pages import drift_page

        write_page(html, drift_page(found))


def _judge(
    videos: list[Path], as_json: bool, fps: float | None, output: Path | None, html: Path | None
) -> None:
    from longlive_recipes.moving_shapes.clip_files import judge_files

    rows: dict[str, Any] = {}

    def judged(path: Path, verdict: "ClipVerdict") -> None:
        rows[str(path)] = asdict(verdict)
        if output is not None:
            _store({"videos": rows}, output)
        _tell(path, verdict, as_json)

    with _counted(lambda: len(rows), len(videos), "judged"), Stoppable():
        judge_files(videos, fps=fps, note=note, judged=judged)
    if html is not None:
        from longlive_recipes.evaluation.pages import judged_page

        write_page(html, judged_page(rows))


@contextmanager
def _counted(done: Callable[[], int], count: int, what: str) -> Iterator[None]:
    """An error within the block gets a note with how many of the videos were done before it."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if done():
            error.add_note(f"{done()} of {count} videos were {what} before that.")
        raise


def _tell(path: Path, verdict: "ClipVerdict", as_json: bool) -> None:
    if as_json:
        say(json.dumps({"video": str(path), **asdict(verdict)}))
        return
    cuts = ", ".join(map(str, verdict.cuts)) or "none"
    say(f"{path}: cuts at frames: {cuts}")
    for number, shot in enumerate(verdict.shots, start=1):
        say(f"  shot {number}: {describe(shot)}")


def describe(shot: "ShotVerdict") -> str:
    """A verdict on a shot, as one line of text for people."""
    return (
        f"{shot.colour} {shot.shape}, motion {shot.motion}, on {shot.background}; steady in "
        f"{shot.steadiness:.0%} of its seconds, drift per second: color {shot.colour_drift:.3f}, "
        f"size {shot.size_drift:.3f}"
    )
