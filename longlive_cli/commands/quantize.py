"""`longlive quantize`: writes a model again with its weights in four bits."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longlive_cli import complete
from longlive_cli.launcher import check_ranks
from longlive_cli.messages import counting, say, show
from longlive_cli.options import NewFolder
from longlive_recipes.generation.interrupts import Stoppable


def quantize(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A model in bf16 or fp32: a folder, or a hub id."),
    ],
    output: NewFolder,
    rule: Annotated[
        str,
        typer.Option(
            help="How blocks are scaled: amax_6, amax_4, four_over_six_ and mse, mae or abs_max.",
            autocompletion=complete.rules,
        ),
    ] = "four_over_six_mse",
    bound: Annotated[
        int | None, typer.Option(help="The largest block scale.  [default: the rule's]")
    ] = None,
    block: Annotated[
        str,
        typer.Option(
            help="What shares a scale: 1x16, or 16x16 as in training.",
            autocompletion=complete.among("1x16", "16x16"),
        ),
    ] = "1x16",
    activation: Annotated[
        str,
        typer.Option(
            help="The rule for inputs where the model runs in four bits, or none.",
            autocompletion=complete.rules,
        ),
    ] = "four_over_six_mse",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave these modules as well: blocks.0, *.ffn.2, ..."),
    ] = None,
    pack: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Pack what is left by default: time_projection, ..."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where weights are rounded: auto, cpu, ...",
            autocompletion=complete.among(*complete.DEVICES),
        ),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be packed, and write nothing.")] = (
        False
    ),
) -> None:
    """Pack a model's weights in NVFP4, four and a half bits each."""
    from longlive_cli.overrides import apply_mapping
    from longlive_models.checkpoints.hub import resolve
    from longlive_recipes.configs.quantize_weights import QuantizeWeights, check_output

    check_ranks(1)
    given = {
        "rule": rule,
        "bound": bound,
        "block": block,
        "activation": activation,
        "keep": tuple(keep or ()),
        "pack": tuple(pack or ()),
        "device": device,
    }
    wanted = apply_mapping(QuantizeWeights(model=checkpoint), given)
    check_output(wanted, output)
    resolve(checkpoint)

    from longlive_recipes import quantize_weights as recipe

    plan = recipe.plan(wanted, output)
    if dry_run:
        show(plan, as_json=as_json)
        return
    with Stoppable():
        result = _run(wanted, output)
    say(json.dumps(as_record(result)) if as_json else summary(result))


def summary(result: Any) -> str:
    """The result of packing, as one line of text for people."""
    return f"{result.folder}: {result.report} (transformer), in {result.seconds:.1f} s"


def as_record(result: Any) -> dict[str, Any]:
    """The result of packing, as values for JSON; the bytes are those of the transformer."""
    return {
        "output": str(result.folder),
        "source_sha256": result.source_sha256,
        "sha256": result.sha256,
        "packed": list(result.report.swapped),
        "kept": dict(result.report.kept),
        "bytes_before": result.report.bytes_before,
        "bytes_after": result.report.bytes_after,
        "seconds": result.seconds,
    }


def _run(config: Any, output: Path) -> Any:
    from longlive_recipes import quantize_weights as recipe

    with counting("packing") as progress:
        return recipe.run(config, output, progress=progress)
