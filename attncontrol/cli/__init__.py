"""The command line. A command is a function in a module of its own here, named alike, and listed below.

Modules import torch and diffusers inside their functions only, so that `--help` and wrong options answer at once.
"""

from importlib import import_module
from typing import Annotated

import typer

from attncontrol.cli.errors import CommandGroup

COMMANDS = (
    "generate", "compare", "maps", "methods", "parse", "batch", "evaluate", "report", "edit", "invert", "insert",
    "demo",
)  # fmt: skip

app = typer.Typer(
    name="attncontrol",
    cls=CommandGroup,
    help="Test-time cross-attention control for diffusers text-to-image pipelines.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from attncontrol import __version__

        typer.echo(f"attncontrol {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


for _command in COMMANDS:
    app.command()(getattr(import_module(f"attncontrol.cli.{_command}"), _command))


def main() -> None:
    """Entry point of the console script."""
    app()
