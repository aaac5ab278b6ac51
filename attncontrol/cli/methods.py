"""`attncontrol methods`: what there is, straight from the methods' dataclasses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from attncontrol.arguments import nearest
from attncontrol.cli import catalog, checks, options
from attncontrol.cli.errors import option
from attncontrol.models import DEFAULT_MODEL, default_steps


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One method or preset, with all its settings.")
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="What each costs with --model: arithmetic and memory, counted, not run.")
    ] = False,
    model: options.Model = DEFAULT_MODEL,
    steps: options.Steps = None,
    width: options.Width = None,
    height: options.Height = None,
    dtype: options.Dtype = "float32",
) -> None:
    """List the methods, or the settings of one, or what they cost."""
    from rich.console import Console

    if name is not None and name not in catalog.names():
        raise ValueError(f"NAME: unknown method {name!r}{nearest(name, catalog.names())}")
    parts = catalog.methods_of(name) if name else list(catalog.methods())
    if cost:
        checks.check_size(width, height)
        checks.check_model(model)
        Console().print(_costs(parts, model, steps or default_steps(model), width, height, dtype))
    elif name is None:
        Console().print(_overview())
    else:
        from attncontrol.losses import method_classes

        Console().print(*(_details(method_classes()[part]) for part in parts), sep="\n")


def _overview():
    from rich.table import Table
    from rich.text import Text

    table = Table("method", "what it does", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for entry in catalog.methods().values():
        layout = " Needs a layout." if entry.needs_layout else ""
        table.add_row(Text(entry.name, "bold"), Text(entry.summary + layout).append(f"\n{entry.paper}", "dim"))
    for name, methods_added in catalog.presets().items():
        table.add_row(Text(name, "bold"), f"A preset: {methods_added}.")
    return table


def _details(cls):
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("setting", "default", "meaning", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    types = get_type_hints(cls)
    for name, default in cls().settings().items():
        help_text = cls.__dataclass_fields__[name].metadata["help"]
        table.add_row(Text(name, "bold"), Text(str(default)), Text(help_text).append(f"\n{_type(types[name])}", "dim"))
    layout = "\nNeeds a layout: boxes for phrases of the prompt." if cls.needs_layout else ""
    return Group(Text(f"{cls.name}: {cls.summary}\n{cls.paper}{layout}\n"), table)


def _costs(names, model, steps, width, height, dtype):
    import math

    import torch
    from rich.console import Group
    from rich.table import Table

    from attncontrol.guidance.cost import load_weightless, method_cost
    from attncontrol.guidance.settings import settings_for
    from attncontrol.losses.combining import resolve_control
    from attncontrol.models import default_call, resolve, tuned_settings

    path = resolve(model)
    with option("--model"):
        family, scale, default = load_weightless(path, getattr(torch, dtype))
    call = default_call(path)
    height, width = height or call.get("height", default[0] * scale), width or call.get("width", default[1] * scale)
    grid, text = (height // scale, width // scale), call.get("max_sequence_length")
    table = Table(
        "method", "maps", "layers", "guided passes", "arithmetic", "GiB", "GiB, low", box=None, pad_edge=False
    )
    refused, settings = [], settings_for(family, tuned_settings(path))
    for name in names:
        method = resolve_control(name, settings).parts[0][1]
        try:
            found = method_cost(family, method, grid, steps, text)
        except ValueError as error:  # a setting of this method does not suit the size
            refused.append(str(error))
            continue
        passes, arithmetic = (
            _range(*(format(value, form) for value in values))
            for values, form in ((found.passes, "d"), (found.arithmetic, ".2f"))
        )
        memory = (f"{mode.peak_bytes / 2**30:.2f}" if mode else "refused" for mode in (found.fast, found.low))
        shape = "{}x{}".format(*found.layers[0].size)
        table.add_row(name, shape, str(len(found.layers)), passes, arithmetic, *memory)
    if len(refused) == len(names):
        raise ValueError("\n".join(refused))
    copies = "classifier-free guidance, " if math.prod(family.plain_calls) > 1 else ""
    title = (
        f"One image of {width}x{height} in {steps} steps with {model}, {copies}{dtype}.\n"
        "Arithmetic of plain sampling = 1; memory above the weights, for plain sampling "
        f"{found.plain.peak_bytes / 2**30:.2f} GiB. Ranges: without refinement, and as much as it may do.\n"
    )
    return Group(title, table, *(f"\n{reason}" for reason in refused))


def _range(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _type(annotation: Any) -> str:
    """A type as a user reads it: "kl | cosine | tv", "int | tuple[int, int] | None"."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    return annotation.__name__ if isinstance(annotation, type) and not get_origin(annotation) else str(annotation)
