"""`attncontrol methods`: what there is, straight from the methods' dataclasses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method, with all its settings.")] = None,
) -> None:
    """List the methods, or the settings of one."""
    from rich.console import Console

    from attncontrol.losses import method_classes
    from attncontrol.losses.registry import nearest

    classes = method_classes()
    if name is None:
        Console().print(_overview(classes))
    elif name in classes:
        Console().print(_details(classes[name]))
    else:
        raise ValueError(f"NAME: unknown method {name!r}{nearest(name, list(classes))}")


def _overview(classes):
    from rich.table import Table
    from rich.text import Text

    from attncontrol.control import resolve_control
    from attncontrol.losses.combining import control_name
    from attncontrol.losses.presets import PRESETS

    table = Table("method", "what it does", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for name, cls in classes.items():
        layout = " Needs a layout." if cls.needs_layout else ""
        table.add_row(Text(name, "bold"), Text(cls.summary + layout).append(f"\n{cls.paper}", "dim"))
    for name in PRESETS:
        table.add_row(Text(name, "bold"), f"A preset: {control_name(resolve_control(name))}.")
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


def _type(annotation: Any) -> str:
    """A type as a user reads it: "kl | cosine | tv", "int | tuple[int, int] | None"."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    return annotation.__name__ if isinstance(annotation, type) and not get_origin(annotation) else str(annotation)
