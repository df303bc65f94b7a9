"""What a shell offers behind Tab: recipes, benchmarks, precisions, devices, names of `--set`."""

from collections.abc import Callable, Iterable

import typer

DEVICES = ("auto", "cpu", "cuda", "cuda:0")

Offer = Callable[[str], list[str]]

TRAINING = ("train_", "distill_")
"""How the names of those modules begin that `longlive train` runs."""

EVALUATION = "pocket"
"""The recipe that `longlive evaluate` runs where none is named."""


def among(*words: str) -> Offer:
    """Offers the words that begin as what is typed does."""

    def offer(incomplete: str) -> list[str]:
        return _begin(words, incomplete)

    return offer


def weights(incomplete: str) -> list[str]:
    """Offers the precisions of weights."""
    from longlive_models.choices import WEIGHTS

    return _begin(("auto", *WEIGHTS), incomplete)


def kv_caches(incomplete: str) -> list[str]:
    """Offers the precisions of past keys and values."""
    from longlive_models.choices import KV_CACHES

    return _begin(("auto", *KV_CACHES), incomplete)


def samplers(incomplete: str) -> list[str]:
    """Offers the samplers."""
    from longlive_models.choices import SAMPLERS

    return _begin(SAMPLERS, incomplete)


def benchmarks(incomplete: str) -> list[str]:
    """What `longlive bench` measures."""
    from longlive_recipes.bench.catalog import BENCHMARKS

    return _begin(BENCHMARKS, incomplete)


def bench_fields(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of `--set` of the benchmarks that the line names."""
    from longlive_recipes.bench.catalog import BENCHMARKS

    words = {*(ctx.params.get("names") or ()), *ctx.args}
    kinds = {type(BENCHMARKS[name].options): name for name in BENCHMARKS if name in words}
    return [
        field for name in kinds.values() for field in _names(BENCHMARKS[name].options, incomplete)
    ]


def rules(incomplete: str) -> list[str]:
    """Offers the scale rules of four-bit numbers."""
    from longlive_recipes.configs.quantize_weights import RULES

    return _begin(RULES, incomplete)


def layouts(incomplete: str) -> list[str]:
    """Offers the layouts that a model can be converted to."""
    from longlive_recipes.configs.convert import FORMATS

    return _begin(FORMATS, incomplete)


def recipes(start: str | tuple[str, ...] = "") -> Offer:
    """Offers the recipes of modules whose names begin with `start`, or with one of several."""

    def offer(incomplete: str) -> list[str]:
        from longlive_cli.catalog import presets

        names = [preset.name for preset in presets() if preset.recipe.startswith(start)]
        return _begin(dict.fromkeys(names), incomplete)

    return offer


def shown(incomplete: str) -> list[str]:
    """Offers the names that `longlive recipes show` takes."""
    return _begin(["generate"], incomplete) + recipes()(incomplete)


def generate_fields(incomplete: str) -> list[str]:
    """Offers names of `--set` of a generation, each with its `=`."""
    from longlive_recipes.configs.generate import Generate

    return _names(Generate(), incomplete)


def recipe_fields(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers names of `--set` of the recipe that the line names."""
    return _of_recipes(ctx, (), incomplete)


def evaluate_fields(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers names of `--set` of the evaluation that the line names, or of the usual one."""
    return _of_recipes(ctx, (EVALUATION,), incomplete)


def _of_recipes(ctx: typer.Context, usual: tuple[str, ...], incomplete: str) -> list[str]:
    from longlive_cli.catalog import presets

    # while a line is not whole, its arguments may not have been given their names yet
    given = ctx.params.get("recipe") or usual
    words = {*((given,) if isinstance(given, str) else given), *ctx.args}
    named = [preset for preset in presets() if words & {preset.name, preset.full_name}]
    return [name for preset in named for name in _names(preset.build(), incomplete)]


def _names(config: object, incomplete: str) -> list[str]:
    from longlive_cli.fields import fields_of

    return _begin([f"{field.name}=" for field in fields_of(config)], incomplete)


def _begin(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
