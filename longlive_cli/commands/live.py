"""`longlive live`: type new prompts while the video is being written."""

import io
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longlive_cli import options
from longlive_cli.commands.generate import end, tell
from longlive_cli.content import Content, look_at_files
from longlive_cli.detail import tell_picked
from longlive_cli.launcher import check_ranks
from longlive_cli.messages import note, show, warnings_are_lines
from longlive_cli.option_groups import with_groups
from longlive_recipes.generation.interrupts import Stoppable

if TYPE_CHECKING:
    from longlive_cli.live_input import Pipe
    from longlive_cli.live_terminal import Terminal
    from longlive_cli.live_view import Lines
    from longlive_recipes.generate import Plan, Result, VideoJob
    from longlive_recipes.generation.inputs import Named


@with_groups
def live(
    prompt: options.Prompt = None,
    storyboard: options.Storyboard = None,
    image: options.Image = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=options.file_name,
            metavar="PATH",
            help="A file: .mp4, .gif, or .png for a folder of frames.  [default: live.mp4]",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="How long the video lasts.  [default: until it is stopped]"),
    ] = None,
    seed: options.Seed = None,
    sampling: dict[str, Any] | None = None,
    runtime: dict[str, Any] | None = None,
    snapshot: options.Snapshot = None,
    resume: options.Resume = None,
    overrides: options.Overrides = None,
    config: options.Config = None,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Type a new prompt while the video is being written; /help lists what else can be typed.

    Every block is in the file as soon as it is made. The record beside the video holds what was
    typed: `longlive generate --replay` makes it again. Lines may also be piped in, with a time in
    front of them (@4s a blue square); a video without --seconds then stops after the last one's
    block, and the first line that cannot be carried out ends any. On a terminal the line is
    edited as in a shell, and Up brings back what was typed; Ctrl-D in an empty line ends the input
    as the end of a pipe does, Ctrl-C stops the video (with --snapshot after the block that is being
    made). Where the cursor cannot be moved, plain lines take the place of the panel.
    """
    content = Content(
        prompt=prompt,
        storyboard=storyboard,
        image=image,
        seed=seed,
        resume=resume,
        one_video=True,
    )
    fields = {"seconds": seconds, **(sampling or {}), **(runtime or {})}
    from longlive_recipes.configs.generate import Generate, Snapshots

    check_ranks(1)
    wanted, jobs = content.read(
        fields, overrides=overrides, file=config, base=Generate(seconds=math.inf)
    )
    place = output or (content.output(jobs) if resume else Path("live.mp4"))
    saving = None if snapshot is None else Snapshots(path=snapshot)
    reads = look_at_files(content, config, wanted, jobs, place, overwrite, saving, typed=True)

    from longlive_recipes import generate as recipe

    plan = recipe.plan(wanted, jobs, place, overwrite, saving)
    recipe.warn_of_plan(plan, jobs)
    tell_picked(plan)
    if dry_run:
        show(plan, as_json=as_json)
        return
    with Stoppable():
        results = _run(plan, jobs[0], snapshot, overwrite, reads)
    tell(results, as_json=as_json)
    end(results)


def _run(
    plan: "Plan", job: "VideoJob", snapshot: Path | None, overwrite: bool, reads: "list[Named]"
) -> "list[Result]":
    from longlive_recipes.live import open_live_session

    view, source = _screen()
    with view, nullcontext() if source is view else source, warnings_are_lines(view.tell):
        session = open_live_session(
            plan,
            job,
            tell=view.tell,
            on_step=view.step,
            snapshot=snapshot,
            overwrite=overwrite,
            reads=reads,
            script=not _is_typed(),
        )
        with source.lines_to(session.receive, session.end_of_input):
            results = session.run(view.show)
    if not results:
        note("longlive: stopped before the first block; nothing was written.")
    return results


def _is_typed() -> bool:
    """Whether a person types the lines; a process may have no standard input at all."""
    return sys.stdin is not None and sys.stdin.isatty()


def _screen() -> "tuple[Terminal | Lines, Terminal | Pipe]":
    """The view and where lines come from: a panel where a terminal can draw one, else plain lines.

    Entering a pipe raises ValueError if a line that is in it at once is no command.
    """
    from importlib.util import find_spec

    from rich.console import Console

    from longlive_cli.live_view import can_draw

    if _is_typed() and can_draw(Console(stderr=True)) and find_spec("termios"):
        from longlive_cli.live_terminal import open_terminal

        terminal = open_terminal()
        return terminal, terminal
    from longlive_cli.live_input import Pipe
    from longlive_cli.live_view import Lines
    from longlive_recipes.generation.commands import check_script

    if _is_typed():
        note("longlive: the cursor cannot be moved here, so these are plain lines; try /help.")
        return Lines(note), Pipe(sys.stdin, None)
    return Lines(note), Pipe(sys.stdin or io.StringIO(), check_script)
