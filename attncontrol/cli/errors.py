"""How commands fail: one line on stderr that names the option and the remedy, exit code 2 for wrong input, else 1.

After an interruption it is 130, and without a reader of the output 141, as in a shell.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

AGAIN = "run the same command again to go on"
GO_ON = {"batch": AGAIN, "invert": AGAIN, "edit": AGAIN}


@contextmanager
def option(name: str) -> Iterator[None]:
    """Names the option at fault in every ValueError of the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class CommandGroup(TyperGroup):
    """Turns the library's errors and warnings into lines on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses what is text at all."""
        for number, text in enumerate(args, 1):
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                _fail(f"argument {number} is not UTF-8 text: {text!r}", 2)
        with _reader():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; the exit code says how it ended."""
        for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
            os.environ.setdefault(name, "error")
        with _reader(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                _fail(f"interrupted: {GO_ON.get(ctx.invoked_subcommand, 'the files listed above are complete')}", 130)
            except ValueError as error:
                _fail(error, 2)
            except BrokenPipeError:
                raise
            except OSError as error:
                _fail(error, 1)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                _fail(
                    f"out of memory: try a smaller --width and --height, --dtype float16, or --device cpu ({error})", 1
                )


@contextmanager
def _reader() -> Iterator[None]:
    """Ends the program as other ones end when whoever read the output has had enough: quietly, as by SIGPIPE."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:  # rich ends the program itself
        if not any(isinstance(e, BrokenPipeError) for e in (error, error.__context__)):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is written at the very end
        raise typer.Exit(128 + 13) from None


def _fail(error: object, code: int) -> None:
    typer.echo(f"Error: {error}", err=True)
    raise typer.Exit(code)


def _is_out_of_memory(error: RuntimeError) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if not issubclass(category, FutureWarning | DeprecationWarning | PendingDeprecationWarning):
        typer.echo(f"Warning: {message}", err=True)
