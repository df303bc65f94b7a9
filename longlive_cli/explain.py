"""The end of a command's help: examples, recipes, and the fields for `--set`.

It is made only when help is asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from typer.core import TyperCommand, TyperOption

EXAMPLES = {
    "generate": (
        'longlive generate "a red circle moves right on a navy background" --seed 1 -o circle.mp4',
        'longlive generate "a pink heart orbits on a gray background" --count 3 --crf 23',
        "longlive generate --prompts story.txt --seconds 8 -o story.mp4",
    ),
    "live": (
        'longlive live "a red circle moves right on a navy background" -o live.mp4',
        'echo "@3s /cut a green triangle moves up" | longlive live "a red circle" --seconds 8',
    ),
    "train": (
        "longlive train ar_tiny",
        "longlive train ar_pocket --set budget.minutes=30 --set seed=1 --dry-run",
        "longlive train ar_pocket --resume runs/ar_pocket",
        "longlive train ar_pocket --data cache",
        "longlive train --plot runs/ar_pocket runs/longer -o runs.html",
    ),
    "prepare": (
        "longlive data prepare clips -o cache",
        "longlive data prepare clips.csv -o cache --size 64x64 --fps 12 --blocks 2",
    ),
    "check": ("longlive data check clips --sheet sheet.png", "longlive data check clips --json"),
    "evaluate": (
        "longlive evaluate circle.mp4",
        "longlive evaluate --recipe pocket_quick --set model=runs/ar_pocket/model -o score.json",
    ),
    "quantize": (
        "longlive quantize runs/ar_pocket/model -o packed --pack time_projection",
        "longlive quantize runs/ar_pocket/model -o packed --dry-run",
    ),
    "bench": (
        "longlive bench generation --seconds 10",
        "longlive bench nvfp4 linear kv_decode --device cuda --repeats 20 -o measured",
        "longlive bench balanced_sp --set ranks=1,2 --set latent_frames=32",
        "longlive bench pairs --set one=bf16.json --set other=nvfp4.json",
    ),
    "serve": ("longlive serve --port 8765", "longlive serve --model pocket --offer nvfp4"),
    "convert": (
        "longlive convert pocket -o packed --to nvfp4",
        "longlive convert pocket -o pocket.safetensors --to diffusers --part transformer --dry-run",
    ),
    "plan": (
        "longlive plan --gpu 4090",
        "longlive plan --gpu 4090 --memory 12GB --max-memory 12GB",
        "longlive plan ar_pocket --train --json",
    ),
    "doctor": ("longlive doctor", "longlive doctor --training --json"),
    "list": ("longlive recipes list",),
    "show": ("longlive recipes show ar_tiny", "longlive recipes show generate --fields"),
}
"""Examples of every command, which can be typed as they are."""


LEFT_OPEN = {
    "seconds": "what its shots say, else 5",
    "sampler": "the model's",
    "steps": "the model's",
    "guidance": "the model's",
    "negative_prompt": "the model's",
    "fps": "the model's",
    "crf": "16",
}
"""The values that a generation uses for fields that are None."""


class Explained(TyperCommand):
    """A command whose help shows the default of every option and ends with `ending`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for option in self.params:
            if isinstance(option, TyperOption) and not (option.is_flag or option.required):
                text = option.help or ""
                if option.default is None and "[default: " not in text:
                    option.help = f"{text}  [default: none]"

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the sections below the options, each line as it is."""
        for title, lines in ending(ctx.info_name):
            with formatter.section(title):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def ending(command: str) -> Iterator[tuple[str, list[str]]]:
    """The sections for a command: titles and lines."""
    if command in EXAMPLES:
        yield "Examples", list(EXAMPLES[command])
    if command in _SECTIONS:
        yield from _SECTIONS[command]()


def _generation() -> Iterator[tuple[str, list[str]]]:
    from longlive_cli.fields import fields_of, table
    from longlive_recipes.configs.generate import Generate

    rows = [
        replace(row, default=f"none ({LEFT_OPEN[row.name]})") if row.name in LEFT_OPEN else row
        for row in fields_of(Generate())
    ]
    yield "Fields of --set and --config: name, default, kind", table(rows)


def _training() -> Iterator[tuple[str, list[str]]]:
    from longlive_cli.complete import TRAINING

    yield "Recipes", _recipes(TRAINING)
    yield "Fields of --set and --config", ["longlive recipes show RECIPE --fields"]


def _evaluation() -> Iterator[tuple[str, list[str]]]:
    from longlive_cli.fields import fields_of, table
    from longlive_recipes.configs.evaluate import PRESETS

    yield "Recipes", _recipes("evaluate")
    rows = list(fields_of(PRESETS["pocket"]()))
    yield "Fields of --set and --config: name, default of 'pocket', kind", table(rows)


def _benchmarks() -> Iterator[tuple[str, list[str]]]:
    from longlive_cli.fields import fields_of, table
    from longlive_recipes.bench.catalog import BENCHMARKS, Benchmark, lines

    yield "Benchmarks", lines()
    alike: dict[type, list[Benchmark]] = {}
    for benchmark in BENCHMARKS.values():
        alike.setdefault(type(benchmark.options), []).append(benchmark)
    for first, *others in alike.values():
        some = [benchmark.name for benchmark in (first, *others)]
        rows = [
            replace(row, default=f"none ({first.left_open})") if row.default == "none" else row
            for row in fields_of(first.options)
        ]
        yield (
            f"Fields of --set and --config for {', '.join(some)}: name, default, kind",
            table(rows),
        )


def _recipes(start: str | tuple[str, ...]) -> list[str]:
    from longlive_cli.catalog import presets

    found = [preset for preset in presets() if preset.recipe.startswith(start)]
    width = max((len(preset.name) for preset in found), default=0)
    return [f"{preset.name:{width}}  {preset.about}" for preset in found]


_SECTIONS: dict[str, Callable[[], Iterator[tuple[str, list[str]]]]] = {
    "generate": _generation,
    "live": _generation,
    "train": _training,
    "evaluate": _evaluation,
    "bench": _benchmarks,
}
