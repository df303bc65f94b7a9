"""`longlive generate`: makes videos from prompts, a snapshot or a record."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from longlive_cli import options
from longlive_cli.boundary import name_of
from longlive_cli.content import Content, look_at_files, read_snapshots
from longlive_cli.detail import how_much, tell_picked, tell_plan
from longlive_cli.launcher import check_ranks, is_first
from longlive_cli.messages import note, say, show
from longlive_cli.option_groups import with_groups
from longlive_recipes.generation.interrupts import Stoppable
from longlive_recipes.generation.trace_file import TraceFile, trace_file

if TYPE_CHECKING:
    from longlive_recipes.generate import Plan, Result, VideoJob
    from longlive_recipes.training.parallel import Parallel


@with_groups
def generate(
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    one_video_a_line: options.OneVideoALine = False,
    storyboard: options.Storyboard = None,
    image: options.Image = None,
    video: options.Video = None,
    cut: options.Cut = False,
    video_prompt: options.VideoPrompt = None,
    output: options.Output = None,
    seconds: options.Seconds = None,
    seed: options.Seed = None,
    count: options.Count = 1,
    sampling: dict[str, Any] | None = None,
    runtime: dict[str, Any] | None = None,
    snapshot: options.Snapshot = None,
    snapshot_every: options.SnapshotEvery = None,
    resume: options.Resume = None,
    fork: options.Fork = None,
    only_new: options.OnlyNew = False,
    replay: options.Replay = None,
    overrides: options.Overrides = None,
    config: options.Config = None,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    nproc: options.Nproc = 1,
    nodes: options.Nodes = 1,
    trace: options.Trace = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Generate one or more videos from prompts, from a snapshot, or again from a record."""
    content = Content(
        prompt=prompt,
        prompts=prompts,
        one_video_a_line=one_video_a_line,
        storyboard=storyboard,
        image=image,
        video=video,
        cut=cut,
        video_prompt=video_prompt,
        seed=seed,
        count=count,
        resume=resume,
        forks=tuple(fork or ()),
        only_new=only_new,
        replay=replay,
    )
    fields = {"seconds": seconds, **(sampling or {}), **(runtime or {})}
    _refuse_endless(seconds, "--seconds inf")
    detail = how_much(quiet, verbose)
    check_ranks(nproc, nodes, "--nproc")
    wanted, jobs = content.read(fields, overrides=overrides, file=config)
    _refuse_endless(None if resume or replay else wanted.seconds, "seconds=inf")  # of --set
    saving = read_snapshots(snapshot, snapshot_every)
    place = content.output(jobs) if output is None else output
    look_at_files(content, config, wanted, jobs, place, overwrite, saving)
    ranks = max(nproc, nodes)
    traced = trace_file(
        trace, wanted, jobs, place, ranks=ranks, overwrite=overwrite, snapshots=saving
    )

    from longlive_recipes import generate as recipe

    plan = recipe.plan(wanted, jobs, place, overwrite, saving, ranks=nproc)
    if detail != "quiet":
        recipe.warn_of_plan(plan, jobs)
    tell_picked(plan, detail)
    parallel = _spread(wanted, jobs, nproc, nodes, saving) if ranks > 1 else None
    if dry_run:
        show(plan, as_json=as_json)
        return
    tell_plan(plan, detail, named="weights" in (runtime or {}))
    with _told(traced, as_json=as_json) as results, Stoppable():
        if parallel is not None:
            results += _run_on_ranks(plan, jobs, parallel, detail, overwrite=overwrite)
        else:
            _run(plan, jobs, saving, detail, traced, overwrite=overwrite, done=results.append)
    end(results)


@contextmanager
def _told(traced: TraceFile | None, *, as_json: bool) -> "Iterator[list[Result]]":
    """A list of what is made, told at the block's end: what comes before a failure is made, too."""
    results: list[Result] = []
    try:
        yield results
    finally:
        tell(results, as_json=as_json)
        if traced is not None:
            tell_trace(traced)


def _spread(
    config: Any, jobs: "list[VideoJob]", nproc: int, nodes: int, snapshots: Any
) -> "Parallel":
    """How ranks share the videos. Raises ValueError if the videos cannot be made over ranks."""
    from longlive_recipes.generate_parallel import check, spread

    parallel = spread(nproc, len(jobs), nodes)
    check(config, jobs, parallel, snapshots)
    return parallel


def _refuse_endless(seconds: float | None, said: str) -> None:
    if seconds == math.inf:
        raise ValueError(
            f"{said} is a video without an end, which `generate` would wait for: pass a "
            "number of seconds, or use `longlive live`, which makes one until it is stopped."
        )


def _run(
    plan: "Plan",
    jobs: "list[VideoJob]",
    snapshots: Any,
    detail: str,
    trace: TraceFile | None,
    *,
    overwrite: bool,
    done: "Callable[[Result], None]",
) -> None:
    from longlive_cli.detail import view
    from longlive_recipes import generate as recipe

    with view(detail, [video.name for video in plan.videos]) as bar:
        recipe.run_plan(
            plan,
            jobs,
            began=time.perf_counter(),
            progress=bar,
            on_step=bar.step,
            overwrite=overwrite,
            snapshots=snapshots,
            done=done,
            trace=trace,
        )


def _run_on_ranks(
    plan: "Plan", jobs: "list[VideoJob]", parallel: "Parallel", detail: str, *, overwrite: bool
) -> "list[Result]":
    """Generate over several ranks; only the first shows progress, of its own videos."""
    from longlive_cli.detail import view
    from longlive_recipes import generate_parallel as recipe

    if not is_first():
        return recipe.run_plan(plan, jobs, parallel, overwrite=overwrite)
    with view(detail, [video.name for video in plan.videos[:: parallel.data]]) as bar:
        return recipe.run_plan(plan, jobs, parallel, progress=bar, overwrite=overwrite)


def tell(results: "list[Result]", *, as_json: bool) -> None:
    """Print a line for each video that was made, as JSON or as text."""
    for result in results:
        say(json.dumps(as_record(result)) if as_json else summary(result))


def tell_trace(trace: TraceFile) -> None:
    """Say what a trace says, and where it is, if a video was made."""
    for line in trace.lines:
        note(line)
    if trace.lines:
        note(f"longlive: the trace is in {trace.path}; open it at https://ui.perfetto.dev")


def end(results: "list[Result]") -> None:
    """Exit with the status 128 + the signal's number if a signal ended a video."""
    if stopped := [result.signal for result in results if result.interrupted]:
        raise typer.Exit(128 + stopped[0])


def summary(result: "Result") -> str:
    """A video that was made, as one line of text for people."""
    lead = f"{name_of(128 + result.signal)}; " if result.interrupted else ""
    more = f"; go on with: longlive generate --resume {result.snapshot}" if result.snapshot else ""
    return (
        f"{result.path}: {lead}{result.frames} frames, {result.frames / result.fps:.1f} s at "
        f"{result.fps:g} frames/s; first frame after {result.seconds_to_first_frame:.1f} s, "
        f"{result.wall_seconds:.1f} s in all{more}"
    )


def as_record(result: "Result") -> dict[str, Any]:
    """A video that was made, as values for JSON.

    `fps` is the frame rate of the video, `generated_fps` the frames made for each second of work.
    """
    return {
        "output": str(result.path),
        "sidecar": str(result.sidecar),
        "frames": result.frames,
        "fps": result.fps,
        "seconds_to_first_frame": result.seconds_to_first_frame,
        "wall_seconds": result.wall_seconds,
        "generated_fps": result.frames_made / result.wall_seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "backends": result.backends,
        "interrupted": result.interrupted,
        "snapshot": None if result.snapshot is None else str(result.snapshot),
    }
