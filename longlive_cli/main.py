"""The `longlive` command. Every subcommand is a function of its own file; nothing heavy loads."""

from typing import Annotated

import typer

from longlive_cli.boundary import Boundary
from longlive_cli.commands.bench import bench
from longlive_cli.commands.convert import convert
from longlive_cli.commands.data import data
from longlive_cli.commands.doctor import doctor
from longlive_cli.commands.evaluate import evaluate
from longlive_cli.commands.generate import generate
from longlive_cli.commands.live import live
from longlive_cli.commands.plan import plan
from longlive_cli.commands.quantize import quantize
from longlive_cli.commands.recipes import recipes
from longlive_cli.commands.serve import serve
from longlive_cli.commands.train import train
from longlive_cli.explain import Explained

app = typer.Typer(
    name="longlive",
    cls=Boundary,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from longlive_core import __version__

        typer.echo(f"longlive {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where something went wrong; goes anywhere.")
    ] = False,
) -> None:
    """Train and run long autoregressive video generation."""


app.command(cls=Explained)(generate)
app.command(cls=Explained)(live)
app.command(cls=Explained)(serve)
app.add_typer(data, name="data")
app.command(cls=Explained)(train)
app.command(cls=Explained)(evaluate)
app.command(cls=Explained)(quantize)
app.command(cls=Explained)(convert)
app.command(cls=Explained)(bench)
app.add_typer(recipes, name="recipes")
app.command(cls=Explained)(plan)
app.command(cls=Explained)(doctor)
