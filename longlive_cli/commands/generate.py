"""`longlive generate`: prompts in, videos out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longlive_cli.messages import INTERRUPTED, bad_input_is_one_sentence, note, show

if TYPE_CHECKING:
    from longlive_recipes.generate import Job, Result


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file of prompts instead: .txt (one shot a line), .jsonl (one video a line) or "
            ".json (a storyboard).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file (.mp4, .gif, or .png for a folder of frames), or a folder for several "
            "videos.  [default: video.mp4, or videos/ for several]",
        ),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="How long a video lasts.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same video.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps a block.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly the prompt is followed; 1 is as trained.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A shipped model's name, a folder or a hub id.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = None,
    weights: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp8, nvfp4, nvfp4-w4a4, or auto.")
    ] = None,
    kv_cache: Annotated[
        str | None, typer.Option(help="How the past is kept; the same names.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change another field.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of fields.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line a video instead of text.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Check everything, print the plan, generate nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace outputs that exist.")] = False,
) -> None:
    """Generate one or more videos from prompts."""
    with bad_input_is_one_sentence():
        from longlive_cli.overrides import apply_mapping, configure
        from longlive_recipes import generate as recipe

        given = {
            "seconds": seconds,
            "steps": steps,
            "guidance": guidance,
            "model": model,
            "device": device,
            "weights": weights,
            "kv_cache": kv_cache,
        }
        named = {name: value for name, value in given.items() if value is not None}
        wanted = apply_mapping(configure(recipe.Generate(), file=config), named)
        wanted = configure(wanted, settings=settings)
        jobs = read_jobs(prompt, prompts, seed)
        if output is None:
            output = Path("video.mp4" if len(jobs) == 1 else "videos")
        plan = recipe.plan(wanted, jobs, output, overwrite)
    if dry_run:
        show(plan, as_json=as_json)
        return
    if wanted.weights != "auto" and plan.stored.partition(",")[0] not in plan.weights:
        note(f"longlive: the files hold {plan.stored}; weights become {plan.weights}.")
    interrupted = False
    for result in _run(wanted, jobs, output, overwrite):
        typer.echo(json.dumps(as_record(result)) if as_json else summary(result))
        interrupted |= result.interrupted
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def read_jobs(prompt: str | None, prompts: Path | None, seed: int) -> "list[Job]":
    """The videos asked for, each with a name that depends on its place and seed only.

    Raises:
        ValueError: no prompt, two sources of prompts, or ids that are no names for files.
    """
    from longlive_models.prompt_files import VideoRequest, read_prompts
    from longlive_models.shots import Storyboard
    from longlive_recipes.generate import Job

    if (prompt is None) == (prompts is None):
        raise ValueError(
            "a video needs a PROMPT or --prompts FILE, got "
            f"{'both' if prompt is not None else 'neither'}."
        )
    if prompts is None:
        requests = [VideoRequest(storyboard=Storyboard.of(prompt or ""))]
    else:
        requests = read_prompts(prompts)
    jobs: list[Job] = []
    for place, request in enumerate(requests):
        if request.image is not None:
            raise ValueError(
                f"a video cannot start from an image yet, got {str(request.image)!r}: leave out "
                f"the key 'image'."
            )
        chosen = seed if request.seed is None else request.seed
        name = f"{place:03d}-seed{chosen}" if request.id is None else request.id
        if Path(name).name != name or name in (".", ".."):
            raise ValueError(f"the id {name!r} cannot name a file: leave out slashes.")
        if name in [job.name for job in jobs]:
            raise ValueError(f"two prompts of {prompts} have the id {name!r}: give each its own.")
        jobs.append(Job(name=name, story=request.storyboard, seed=chosen))
    return jobs


def _run(config: Any, jobs: "list[Job]", output: Path, overwrite: bool) -> "list[Result]":
    from longlive_cli.progress import FrameBar
    from longlive_recipes import generate as recipe

    try:
        with FrameBar([job.name for job in jobs]) as bar:
            return recipe.run(config, jobs, output, progress=bar, overwrite=overwrite)
    except KeyboardInterrupt:
        note("longlive: interrupted before the first block; nothing was written.")
        raise typer.Exit(INTERRUPTED) from None


def summary(result: "Result") -> str:
    """One line for people."""
    lead = "interrupted; " if result.interrupted else ""
    return (
        f"{result.path}: {lead}{result.frames} frames, {result.frames / result.fps:.1f} s at "
        f"{result.fps:g} frames/s; first frame after {result.seconds_to_first_frame:.1f} s, "
        f"{result.wall_seconds:.1f} s in all"
    )


def as_record(result: "Result") -> dict[str, Any]:
    """One JSON object for programs; `fps` is the video's, `generated_fps` the speed it came at."""
    return {
        "output": str(result.path),
        "sidecar": str(result.sidecar),
        "frames": result.frames,
        "fps": result.fps,
        "seconds_to_first_frame": result.seconds_to_first_frame,
        "wall_seconds": result.wall_seconds,
        "generated_fps": result.frames / result.wall_seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "backends": result.backends,
        "interrupted": result.interrupted,
    }
