"""`longlive convert`: writes a model's files again in another layout."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longlive_cli import complete
from longlive_cli.launcher import check_ranks
from longlive_cli.messages import counting, say, show
from longlive_cli.options import file_name
from longlive_recipes.generation.interrupts import Stoppable

Layout = Annotated[
    str,
    typer.Option(
        help="The layout: longlive, diffusers, published, comfyui, gguf, torchao, ...",
        autocompletion=complete.layouts,
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Write this adapter in another layout (lora-peft, lora-kohya); MODEL is what it is "
        "for.",
    ),
]


def convert(
    model: Annotated[
        str,
        typer.Argument(help="A model's folder, a file of weights in any layout, or a hub id."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=file_name,
            metavar="PATH",
            help="The file or folder to write; it must not exist.",
        ),
    ],
    to: Layout,
    part: Annotated[
        str,
        typer.Option(
            help="What to convert: all, transformer, vae or text_encoder.",
            autocompletion=complete.among("all", "transformer", "vae", "text_encoder"),
        ),
    ] = "all",
    dtype: Annotated[
        str,
        typer.Option(
            help="The type of plain weights: keep, bf16, fp16 or fp32.",
            autocompletion=complete.among("keep", "bf16", "fp16", "fp32"),
        ),
    ] = "keep",
    source: Annotated[
        str | None,
        typer.Option(help="Whose packed weights they are, where the file does not say it."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Their scale rule, where the file does not say it.",
            autocompletion=complete.rules,
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            help="The order of block scales: linear or swizzled.",
            autocompletion=complete.among("linear", "swizzled"),
        ),
    ] = None,
    lora: Adapter = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Say what would be written, and write nothing.")
    ] = False,
) -> None:
    """Write a model in another layout: Diffusers, ComfyUI, GGUF, NVFP4 of others, our folders."""
    from longlive_cli.overrides import apply_mapping
    from longlive_recipes.configs.convert import Convert, check_paths

    check_ranks(1)
    given = {"part": part, "dtype": dtype, "source": source, "rule": rule, "scales": scales}
    wanted = apply_mapping(Convert(model=model, to=to, lora=lora), given)
    check_paths(wanted, output)
    if not Path(model).expanduser().is_dir():
        from longlive_models.checkpoints.hub import resolve

        resolve(model)

    from longlive_recipes import convert as recipe

    if dry_run:
        show(recipe.plan(wanted, output), as_json=as_json)
        return
    with Stoppable():
        result = _run(wanted, output)
    say(json.dumps(as_record(result)) if as_json else summary(result))


def summary(result: Any) -> str:
    """The result of a conversion, as one line of text for people."""
    exact = "to the bit" if result.exact else "rounded"
    return (
        f"{result.output}: {', '.join(result.parts)}, {exact}, {result.bytes / 1e9:.2f} GB, in "
        f"{result.seconds:.1f} s"
    )


def as_record(result: Any) -> dict[str, Any]:
    """The result of a conversion, as values for JSON."""
    return {
        "output": str(result.output),
        "parts": list(result.parts),
        "exact": result.exact,
        "bytes": result.bytes,
        "seconds": result.seconds,
    }


def _run(config: Any, output: Path) -> Any:
    from longlive_recipes import convert as recipe

    with counting("converting") as progress:
        return recipe.run(config, output, progress=progress)
