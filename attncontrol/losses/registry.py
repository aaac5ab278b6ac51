"""Methods by name. A method registers itself where it is defined; importing `attncontrol.losses` finds them all."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from attncontrol.losses.base import Method
from attncontrol.losses.presets import PRESETS

_methods: dict[str, type[Method]] = {}


def register(name: str, *, summary: str, paper: str) -> Callable[[type[Method]], type[Method]]:
    """Makes a method known under a name and adds its settings to its docstring; a class decorator.

    Args:
        name: What users call the method.
        summary: What it does, in one line.
        paper: Its source.
    """

    def add(cls: type[Method]) -> type[Method]:
        cls.name, cls.summary, cls.paper = name, summary, paper
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or summary)}\n\nArgs:\n{_settings_block(cls)}\n"
        _methods[name] = cls
        return cls

    return add


def _settings_block(cls: type[Method]) -> str:
    """The settings of a method as the lines of an Args block, with their defaults."""
    lines = []
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        text = f"{field.name}: {field.metadata['help']} (default: {default!r})."
        lines += textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)
    return "\n".join(lines)


def method_classes() -> dict[str, type[Method]]:
    """All registered methods by name, in alphabetical order."""
    return dict(sorted(_methods.items()))


def create_method(name: str, **settings: Any) -> Method:
    """Creates the method called `name`.

    Args:
        name: One of `method_classes()`.
        **settings: Its hyperparameters, which may be as JSON has them: lists for tuples, "0.2" for 0.2.

    Returns:
        The method; settings that are not given have their published defaults.

    Raises:
        ValueError: For an unknown method or setting (with the nearest name there is) and for wrong types.

    Example:
        create_method("syngen", step_size=15, stop=0.3)
    """
    if name not in _methods:
        raise ValueError(f"unknown method {name!r}{nearest(name, [*method_classes(), *PRESETS])}")
    cls = _methods[name]
    return cls(**convert_settings(cls, settings))


def convert_settings(cls: type[Method], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in the types the method's fields are declared with: lists as tuples, "0.2" as a number, and so on.

    Raises:
        ValueError: For an unknown setting or a value of another type; the message names the method and the setting.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [f.name for f in dataclasses.fields(cls)]
    types = get_type_hints(cls)
    converted = {}
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"{cls.name} has no setting {setting!r}{nearest(setting, known)}")
        try:
            converted[setting] = TypeAdapter(types[setting]).validate_python(value)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ValueError(f"{cls.name}: {setting} cannot be {value!r}: {wrong['msg']}") from error
    return converted


def nearest(wrong: str, known: list[str]) -> str:
    """The end of an error message about an unknown name: the nearest one there is, and all of them."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.4)
    hint = f", did you mean {close[0]!r}?" if close else "."
    return f"{hint} There are: {', '.join(known)}"
