"""`longlive train`: runs a training recipe, with fields changed by options and files."""

import shlex
import signal
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from longlive_cli import complete
from longlive_cli.launcher import check_ranks, is_first
from longlive_cli.messages import log_is_lines, note, say, show, spinning
from longlive_cli.options import file_name
from longlive_cli.refusals import refuse_beside

CHAIN, FIRST_STAGE = "distill_chain", "ar"
"""The recipe of several stages, and its field with the first, whose clips are those of all."""

Recipe = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE",
        help="A recipe; they are listed below. With --plot, folders of runs.",
        autocompletion=complete.recipes(complete.TRAINING),
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a field.",
        autocompletion=complete.recipe_fields,
    ),
]
Config = Annotated[Path | None, typer.Option(help="A YAML file of fields.")]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="CACHE",
        help="Train on clips of your own: what `longlive data prepare` wrote. Sets the field "
        "data, and size, rate, words and sample prompts as the clips have them.",
    ),
]
Resume = Annotated[
    str | None, typer.Option(help="Go on with this run: its folder, or a checkpoint file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print --dry-run's config as JSON.")]
DryRun = Annotated[
    bool,
    typer.Option(
        help="Print the config and the memory that a run takes, for distillation which GPUs it "
        "fits; train nothing."
    ),
]
Export = Annotated[
    bool, typer.Option(help="Write the model of --resume's checkpoint, and train nothing.")
]
Best = Annotated[
    bool,
    typer.Option(
        "--best",
        help="With --export: of the run's best checkpoint (run.best_metric), not its last.",
    ),
]
Loggers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Send the numbers to wandb or mlflow, too; may be given for each.",
        autocompletion=complete.among("wandb", "mlflow"),
    ),
]
Plot = Annotated[
    bool,
    typer.Option(
        "--plot",
        help="Write a page that shows runs side by side, and train nothing: name their "
        "folders in place of a recipe.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=file_name,
        metavar="FILE",
        help="Where --plot writes, an .html file.  [default: runs.html]",
    ),
]


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    config: Config = None,
    data: Data = None,
    resume: Resume = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    export: Export = False,
    best: Best = False,
    logger: Loggers = None,
    plot: Plot = False,
    output: Output = None,
) -> None:
    """Train a model with a recipe."""
    if plot:
        others: dict[str, Any] = {"--set": overrides, "--config": config, "--data": data}
        others |= {"--resume": resume, "--json": as_json, "--export": export, "--best": best}
        others |= {"--logger": logger}
        why = "it shows runs that are there, takes no option but --output, and trains nothing"
        refuse_beside("--plot", others, why)
        say(str(_plot(recipe, output, dry_run)))
        return
    if len(recipe) > 1:
        raise ValueError(
            f"a run has one recipe, got {len(recipe)}: {', '.join(recipe)}. Train one after the "
            f"other; --plot takes the folders of several runs."
        )
    if output is not None:
        raise ValueError(
            f"--output {output} is the file of --plot; a run writes into the folder run.output. "
            f"Use --set run.output=FOLDER."
        )
    if as_json and not dry_run:
        raise ValueError("--json says how --dry-run prints the config: add --dry-run.")
    if export and resume is None:
        raise ValueError("--export writes the model of a run: name it with --resume RUN.")
    if export:
        refuse_beside("--export", {"--logger": logger}, "it trains nothing, and so logs nothing")
    resume = _best_of(resume, export) if best else resume
    fields = _fields_of_loggers(logger, overrides)
    _train(recipe[0], overrides, config, data, fields, resume, as_json, dry_run, export)


def _train(
    recipe: str,
    overrides: list[str] | None,
    config: Path | None,
    data: Path | None,
    fields: dict[str, Any],
    resume: str | None,
    as_json: bool,
    dry_run: bool,
    export: bool,
) -> None:
    from longlive_cli.catalog import find, presets
    from longlive_cli.field_names import check_names
    from longlive_cli.overrides import apply_mapping, configure, gather

    preset = find(recipe, [p for p in presets() if p.recipe.startswith(complete.TRAINING)])
    changes = gather(config, overrides)
    check_names(preset, changes)
    if data is not None:
        named = {"data": str(data)}
        check_names(preset, {FIRST_STAGE: named} if preset.recipe == CHAIN else named)
    if data is not None:
        _require_cache(data)
    first = is_first()
    if export and not dry_run:
        check_ranks(1)
    if preset.recipe != CHAIN and not dry_run and first:  # a rank that is late finds the run begun
        _look_at_run(changes, resume)
    with spinning(f"loading {preset.name}") if first else nullcontext():
        plain = preset.build()
        of_data = {} if data is None else _fields_for(data, plain, changes)
        begun = apply_mapping(apply_mapping(plain, of_data), fields)
        wanted = configure(begun, config, overrides)
        module = preset.module
    reads = [("--config", config)] if config is not None else []
    _refuse_to_replace(wanted, reads)
    if dry_run:
        if data is not None:
            _check_clips(module, wanted)
        show(wanted, as_json=as_json)
        if not as_json:
            with spinning("rehearsing a step") if first else nullcontext():
                lines = _predicted(module, wanted)
            say("\n".join(lines))
        return
    if export:
        say(str(module.export(wanted, resume=resume)))
        return
    spread = vars(wanted).get("parallel")  # some recipes are for one rank
    check_ranks(
        spread.ranks if spread else 1,
        spread.nodes if spread else 1,
        "--set parallel.data" if spread else None,
    )
    with spinning("looking at files, memory and settings") if first else nullcontext():
        module.check(wanted, resume=resume)
    command = _command(recipe, overrides, config, data, fields)
    with log_is_lines(lambda line: note(f"longlive: {line}") if first else None):
        result = _run(module, wanted, resume, command)
    from longlive_recipes.training.parallel import is_first_process

    if is_first_process():
        say(str(result))


def _plot(folders: list[str], output: Path | None, dry_run: bool) -> Path:
    """Write the page of ``--plot``, unless it is a dry run; its path.

    Raises ValueError for what is no run's folder.
    """
    from longlive_recipes.generation.outputs import check_writable
    from longlive_recipes.training.page import is_page
    from longlive_recipes.training.report import comparison, report, write_page
    from longlive_recipes.training.run_folder import RunFolder

    path = Path("runs.html") if output is None else output
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output {path} is written as a page: name a file that ends in .html.")
    if path.exists() and not (path.is_file() and is_page(path)):
        raise ValueError(
            f"{path} exists and is no page of runs, which alone is replaced: name another file "
            f"with --output."
        )
    runs = [RunFolder.read(Path(folder)) for folder in folders]
    check_writable(path, "output")
    if dry_run:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, report(runs[0]) if len(runs) == 1 else comparison(runs))
    return path


def _best_of(resume: str | None, export: bool) -> str:
    """The best checkpoint of the run that is exported."""
    from longlive_recipes.training.run_folder import best_checkpoint

    if resume is None or not export:
        raise ValueError(
            "--best says which checkpoint --export writes a model of: give it with --export and "
            "--resume RUN."
        )
    return str(best_checkpoint(Path(resume)))


def _fields_of_loggers(names: list[str] | None, overrides: list[str] | None) -> dict[str, Any]:
    """What --logger sets. Raises ValueError for a logger that cannot be had here."""
    if not names:
        return {}
    from longlive_recipes.training.loggers import check_loggers

    for setting in overrides or ():
        if setting.partition("=")[0].strip() == "run.loggers":
            raise ValueError(
                f"run.loggers is given twice, by --logger and by --set {setting!r}: only one of "
                f"them can hold. Leave one out."
            )
    check_loggers(names)
    return {"run": {"loggers": list(dict.fromkeys(names))}}


def _require_cache(cache: Path) -> None:
    """Raise ValueError where there is no such cache; loads no torch."""
    from longlive_recipes.data.cache_index import read_index

    read_index(cache)


def _look_at_run(changes: dict[str, Any], resume: str | None) -> None:
    """Raise ValueError for a checkpoint that is not there, or a folder that holds another run.

    Loads no torch.
    """
    from longlive_recipes.training.run_folder import find_checkpoint, require_fresh

    run = changes.get("run")
    output = run.get("output") if isinstance(run, dict) else None
    if resume is not None:
        find_checkpoint(resume)
    elif isinstance(output, str):
        require_fresh(Path(output))


def _fields_for(cache: Path, preset: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """What --data sets in a recipe's preset, which other options change: the cache's folder alone
    where captions are not read.
    """
    if FIRST_STAGE in vars(preset):
        inner = changes.get(FIRST_STAGE)
        given = inner if isinstance(inner, dict) else {}
        first = _fields_for(cache, vars(preset)[FIRST_STAGE], given)
        stages = {name: vars(preset)[name] for name in preset.names}
        later = {n: {"data": str(cache), **_of_drawn_clips(one)} for n, one in stages.items()}
        return later | {FIRST_STAGE: first}
    if "sample_prompts" not in vars(preset):
        return {"data": str(cache), **_of_drawn_clips(preset)}
    from longlive_models.text import PocketTextConfig
    from longlive_recipes.data.splits import fields_for

    start = changes.get("start_from", preset.start_from)
    adapter = changes.get("adapter")
    rank = adapter.get("rank") if isinstance(adapter, dict) else None
    return _of_drawn_clips(preset) | fields_for(
        cache,
        start=None if str(start).lower() in ("none", "null", "") else start,
        reads=isinstance(preset.text, PocketTextConfig),
        learns=preset.learns_words and str(rank) in ("None", "0"),
    )


def _of_drawn_clips(preset: Any) -> dict[str, Any]:
    """What --data takes back of a preset: what is of drawn clips alone, and so changes nothing."""
    from longlive_recipes.configs.distill import Distill
    from longlive_recipes.configs.distill_vae import DistillVAE
    from longlive_recipes.configs.judge import Judged

    if isinstance(preset, Distill) and preset.judged != Judged():
        return {"judged": {"videos": 0}}
    if isinstance(preset, DistillVAE) and preset.data is None:
        usual = DistillVAE()
        return {"clips": usual.clips, "world": vars(usual.world)}
    return {}


def _check_clips(module: ModuleType, wanted: Any) -> None:
    """Raise ValueError where a cache is not one for a config; as a run would, on any machine."""
    from longlive_recipes.training.ar_checks import check_own_clips

    if "check_own_clips" in vars(module):  # of a recipe that trains no transformer
        module.check_own_clips(wanted)
    for stage in wanted.stages if FIRST_STAGE in vars(wanted) else (wanted,):
        if "sample_prompts" in vars(stage):
            check_own_clips(stage)


def _refuse_to_replace(wanted: Any, reads: list[tuple[str, Path]]) -> None:
    """Raise ValueError if a file that the run writes would replace one that it reads."""
    from longlive_recipes.generation.inputs import refuse_inputs
    from longlive_recipes.training.run_checks import run_files

    for name in ("vae", "start_from", "teacher_from", "lora_from", "latent_cache", "data"):
        value = vars(wanted).get(name)
        if isinstance(value, str):
            reads.append((name, Path(value)))
    run = vars(wanted).get("run")  # a recipe of another package may write elsewhere
    if run is not None:
        refuse_inputs(run_files(Path(run.output)), reads, option="run.output")


def _run(module: ModuleType, wanted: Any, resume: str | None, command: str) -> Path:
    """Train; an error that stops the run gets a note with the command that resumes it."""
    from longlive_recipes.generation.interrupts import Stopped
    from longlive_recipes.training.fit import what_is_left

    def left() -> str:
        if "what_is_left" in vars(module):  # of a chain of runs
            return str(module.what_is_left(wanted, resume))
        return what_is_left(wanted.run, resume, command=command)

    try:
        result: Path = module.run(wanted, resume=resume)
        return result
    except (KeyboardInterrupt, OSError) as error:
        error.add_note(left())
        raise
    except FloatingPointError as error:
        lost = ValueError(str(error))
        lost.add_note(left())
        raise lost from error
    except SystemExit as error:
        if error.code != 128 + signal.SIGTERM:
            raise
        stopped = Stopped(signal.SIGTERM)
        stopped.add_note(left())
        raise stopped from error


def _predicted(module: ModuleType, wanted: Any) -> list[str]:
    """What a run will take, a line each."""
    if "what_fits" in vars(module):
        return [str(module.what_fits(wanted))]
    if "predict" not in vars(module):
        return ["# the memory of this recipe is not predicted"]
    try:
        return [f"# {line}" for line in module.predict(wanted).lines()]
    except ValueError as error:
        return [f"# the memory cannot be predicted: {error}"]


def _command(
    recipe: str, overrides: list[str] | None, config: Path | None, data: Path | None, fields: Any
) -> str:
    """The command of this run as a shell takes it, without what it went on from."""
    words = ["longlive", "train", recipe]
    words += [] if config is None else ["--config", str(config)]
    words += [] if data is None else ["--data", str(data)]
    for name in fields.get("run", {}).get("loggers", ()):
        words += ["--logger", name]
    for setting in overrides or ():
        words += ["--set", setting]
    return shlex.join(words)
