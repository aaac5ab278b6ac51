"""Methods added up, as text and as JSON: what the command line, prompt files and image metadata hold."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attncontrol.losses.base import Method, MethodSum
from attncontrol.losses.presets import PRESETS
from attncontrol.losses.registry import convert_settings, create_method, nearest

NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE]-?\d+)?"
TERM = re.compile(rf"\s*(?:(?P<weight>{NUMBER})\s*\*\s*)?(?P<method>\S.*?)\s*")


Control = str | Method | MethodSum | Mapping[str, Any] | Sequence[Any] | None


def resolve_control(control: Control, tuned: Mapping[str, Any] | None = None) -> MethodSum:
    """Turns what a user may pass as `control` into methods with weights.

    Args:
        control: Names of methods or presets ("syngen", "conform + 0.5*syngen", "auto"), a method, a sum of methods, a
            mapping {"method": name, "weight": 1.0, settings...} with settings as JSON has them (`control_to_json`
            makes it), or a sequence of these, which are added up; None is an empty sum.
        tuned: By method name the settings that replace the published defaults where a method is given by name, and by
            preset its parts.

    Returns:
        The methods, in the order in which they were named.

    Raises:
        ValueError: For an unknown method or setting.
        TypeError: For anything else that is no control.
    """
    if control is None:
        return MethodSum()
    if isinstance(control, MethodSum):
        return control
    if isinstance(control, Method):
        return 1.0 * control
    if isinstance(control, str):
        return sum((weight * _by_name(name, {}, tuned or {}) for weight, name in parse_terms(control)), MethodSum())
    if isinstance(control, Mapping):
        settings = dict(control)
        name = settings.pop("method", None)
        if not isinstance(name, str):
            raise ValueError(f"a control given as a mapping needs 'method', the name of one; got {dict(control)!r}")
        weight = settings.pop("weight", 1.0)
        return weight * _by_name(name, settings, tuned or {})
    if isinstance(control, Sequence):
        return sum((resolve_control(part, tuned) for part in control), MethodSum())
    raise TypeError(f"control must be a method's name, a method or a sum of methods, not {type(control).__name__}")


def _by_name(name: str, settings: Mapping[str, Any], tuned: Mapping[str, Any]) -> MethodSum:
    """A method or the parts of a preset, in the tuned settings but for the given ones."""
    if name in PRESETS:
        return with_settings(resolve_control(tuned.get(name, PRESETS[name]), tuned), settings)
    return 1.0 * create_method(name, **{**tuned.get(name, {}), **settings})


def parse_terms(text: str) -> list[tuple[float, str]]:
    """Weights and names in "attend-and-excite + 0.5*syngen".

    Raises:
        ValueError: For an empty term.
    """
    terms = []
    for term in text.split("+"):
        match = TERM.fullmatch(term)
        if match is None:
            raise ValueError(
                f"the control {text!r} lacks a method: write its name, or several as in "
                "'attend-and-excite + 0.5*syngen'"
            )
        terms.append((float(match["weight"] or 1.0), match["method"]))
    return terms


def control_to_json(methods: MethodSum) -> list[dict[str, Any]]:
    """Every part as {"method", "weight", all settings}, made of JSON types; `resolve_control` reads it back."""
    parts = [{"method": method.name, "weight": weight, **method.settings()} for weight, method in methods.parts]
    return json.loads(json.dumps(parts, allow_nan=False))


def control_name(methods: MethodSum) -> str:
    """The methods and their weights in one line: "attend-and-excite + 0.5*syngen"; "plain" if there is none."""
    terms = [method.name if weight == 1 else f"{weight:g}*{method.name}" for weight, method in methods.parts]
    return " + ".join(terms) or "plain"


def control_names(controls: Sequence[MethodSum], given: Sequence[str]) -> list[str]:
    """A name for each of several controls: its methods, or what it was given as where others are of the same ones."""
    names = [control_name(methods) for methods in controls]
    return [text if names.count(name) > 1 else name for text, name in zip(given, names, strict=True)]


def with_settings(methods: MethodSum, settings: Mapping[str, Any]) -> MethodSum:
    """The same methods with some settings replaced.

    A key is a setting, which then holds for every part that has it, or "method.setting". Values are converted to the
    setting's type.

    Raises:
        ValueError: For a setting that no part has and for values of a wrong type.
    """
    changes: list[dict[str, Any]] = [{} for _ in methods.parts]
    for key, value in settings.items():
        name, _, setting = key.rpartition(".")
        owners = [i for i, (_, method) in enumerate(methods.parts) if setting in method.settings()]
        owners = [i for i in owners if name in ("", methods.parts[i][1].name)]
        if not owners:
            known = [(method.name, field) for _, method in methods.parts for field in method.settings()]
            names = [f"{method}.{field}" if name else field for method, field in known]
            raise ValueError(f"the control has no setting {key!r}{nearest(key, list(dict.fromkeys(names)))}")
        for owner in owners:
            changes[owner][setting] = value
    parts = (
        (weight, dataclasses.replace(method, **convert_settings(type(method), change)))
        for (weight, method), change in zip(methods.parts, changes, strict=True)
    )
    return MethodSum(tuple(parts))
