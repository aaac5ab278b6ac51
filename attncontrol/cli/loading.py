"""Loading a pipeline, progress bars and file names, for the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attncontrol.cli.errors import option

console = Console(stderr=True)


def load_pipeline(model: str, device: str, dtype: str) -> Any:
    """The controlled pipeline on a device.

    Raises:
        ValueError: If it cannot be had; the message names the option at fault.
    """
    import diffusers
    import torch
    import transformers

    from attncontrol import AttentionControlPipeline

    for package in (diffusers, transformers):
        package.utils.logging.disable_progress_bar()
    with option("--device"):
        check_device(device)
    with option("--model"), console.status(f"loading {model}"):
        pipe = AttentionControlPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def check_device(name: str) -> None:
    """Raises ValueError for a device torch does not know or that this machine lacks."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name!r} cannot be used here; cpu always can ({reason})") from error


@contextmanager
def step_progress(images: int, steps: int) -> Iterator[Callable[[int], None]]:
    """A bar over all steps of all images on a terminal; yields `draw`'s `on_step`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = images * steps
        task = progress.add_task(f"{images} image{'s' if images > 1 else ''}", total=total)

        def advance(more: int) -> None:
            nonlocal total
            total += more
            progress.update(task, total=total, advance=1)

        yield advance


def check_targets(paths: list[Path], overwrite: bool) -> None:
    """Raises ValueError before any work is done if a result could not be written."""
    for path in paths:
        if path.exists() and not overwrite:
            raise ValueError(f"{str(path)!r} is already there: give --overwrite, or another --output or seed")
