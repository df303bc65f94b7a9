"""`longlive serve`: videos in a browser, watched and steered while they are made."""

import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from longlive_cli import options
from longlive_cli.messages import note, say, show
from longlive_cli.option_groups import with_groups
from longlive_recipes.generation.interrupts import Stoppable

NEEDS = ("fastapi", "uvicorn", "multipart")


_Host = Annotated[
    str, typer.Option(help="The address to listen at; others than this machine's need --token.")
]
_Token = Annotated[
    str | None, typer.Option(help="A secret that clients have to send, of 8 letters or more.")
]
_Name = Annotated[
    list[str] | None, typer.Option(help="Another host name by which the server is reached.")
]
_Folder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=options.file_name,
        metavar="FOLDER",
        help="Where videos, records and snapshots are kept.  [default: served]",
    ),
]
_Offer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WEIGHTS",
        help="Another precision of the weights to choose from; loads the model once more.",
    ),
]
_Ahead = Annotated[int, typer.Option(help="Blocks that are made before the one that is watched.")]
_SnapshotMB = Annotated[
    int, typer.Option(help="MiB of all snapshots of a session; beyond, some are dropped.")
]


@with_groups
def serve(
    host: _Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes any that is free.")] = 8765,
    token: _Token = None,
    name: _Name = None,
    output: _Folder = None,
    model: options.Model = None,
    download: options.Download = None,
    offer: _Offer = None,
    runtime: dict[str, Any] | None = None,
    max_memory: options.MaxMemory = None,
    sessions: Annotated[int, typer.Option(help="Sessions that are open at a time.")] = 8,
    seconds: Annotated[float, typer.Option(help="The length of a video at most.")] = 3600.0,
    steps: Annotated[int, typer.Option(help="Denoising steps of a block at most.")] = 100,
    queue: Annotated[int, typer.Option(help="Whole videos that may wait.")] = 16,
    upload_mb: Annotated[int, typer.Option(help="MiB of a picture that is sent, at most.")] = 16,
    ahead: _Ahead = 2,
    snapshot_every: Annotated[int, typer.Option(help="Blocks between two snapshots.")] = 4,
    snapshot_mb: _SnapshotMB = 2048,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print --dry-run's config as JSON.")
    ] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Serve a page where videos are watched and steered while they are made, and an API.

    The address is the first line on standard output. It ends at Ctrl-C or a signal: sessions that
    are being made are kept, and offered again by the next server of the same folder.
    """
    from longlive_cli.overrides import apply_mapping
    from longlive_models.checkpoints.hub import resolve
    from longlive_models.lora_source import LoRASource
    from longlive_recipes.configs.serve import Limits, Serve
    from longlive_recipes.generation.inputs import require_inputs

    if as_json and not dry_run:
        raise ValueError("--json says how --dry-run prints the config: add --dry-run.")
    limits = Limits(
        sessions=sessions,
        seconds=seconds,
        steps=steps,
        queue=queue,
        upload_mb=upload_mb,
        ahead=ahead,
        snapshot_every=snapshot_every,
        snapshot_mb=snapshot_mb,
    )
    config = Serve(
        host=host,
        port=port,
        token=token,
        names=tuple(name or ()),
        folder=output or Path("served"),
        model=model or "pocket",
        download=bool(download),
        offer=tuple(offer or ()),
        limits=limits,
        max_memory=max_memory,
    )
    config = apply_mapping(config, runtime or {})
    if not config.download:
        resolve(config.model)
    require_inputs([("--lora", LoRASource.parse(one).path) for one in config.lora])
    if dry_run:
        hidden = None if config.token is None else "*" * 8
        show(replace(config, token=hidden), as_json=as_json)
        return
    missing = [package for package in NEEDS if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"longlive serve needs {', '.join(missing)}, which {_is_are(missing)} not installed: "
            f"pip install 'longlive[serve]'."
        )
    stopped_by = _run(config)
    if stopped_by:
        raise typer.Exit(128 + stopped_by)


def _is_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _run(config: Any) -> int:
    from longlive_models.prompts.report import PromptWarning
    from longlive_models.sampling_notes import SamplingWarning
    from longlive_recipes.generation.within_memory import within_memory
    from longlive_recipes.serve.server import address_of, listen, serve

    config, picked = within_memory(config, videos=config.limits.sessions)
    for line in picked:
        note(f"longlive: {config.model} {line}")
    with listen(config) as opened, Stoppable(), warnings.catch_warnings():
        for told in (PromptWarning, SamplingWarning):  # the page and the answers say it
            warnings.simplefilter("ignore", told)

        def ready() -> None:
            say(address_of(config, opened))
            sys.stdout.flush()

        stopped_by = serve(config, opened, ready)
    note(f"longlive: stopped; what is in {config.folder} can be resumed.")
    return stopped_by
