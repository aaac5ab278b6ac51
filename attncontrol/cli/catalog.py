"""What methods there are, read in their source files: importing them imports torch, which takes seconds."""

from __future__ import annotations

import ast
import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LOSSES = Path(__file__).parents[1] / "losses"


@dataclass(frozen=True)
class Entry:
    """A method as its `@register(...)` line describes it."""

    name: str
    summary: str
    paper: str
    needs_layout: bool
    settings: tuple[str, ...]


@cache
def methods() -> dict[str, Entry]:
    """All methods by name, in alphabetical order."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in LOSSES.glob("*.py"))
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    entries = [
        Entry(*_texts(decorator), _needs_layout(node.name, classes), tuple(_settings(node.name, classes)))
        for node in classes.values()
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "register"
    ]
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}


@cache
def presets() -> dict[str, str]:
    """Every preset as the sum of methods it stands for: {"auto": "conform + syngen"}."""
    found = runpy.run_path(str(LOSSES / "presets.py"))["PRESETS"]
    return {name: " + ".join(map(_term, parts)) for name, parts in found.items()}


def names() -> list[str]:
    """Every name that a control may have."""
    return [*methods(), *presets()]


def methods_of(control: str) -> list[str]:
    """The names in a sum such as "0.5*syngen + auto", as they are written, but of a preset those of its methods."""
    terms = (term.rpartition("*")[2].strip() for term in control.split("+"))
    return [name for term in terms if term for name in (methods_of(presets()[term]) if term in presets() else [term])]


def _term(part: dict[str, Any]) -> str:
    return f"{part['weight']:g}*{part['method']}" if "weight" in part else part["method"]


def _texts(decorator: ast.Call) -> tuple[str, str, str]:
    texts = {keyword.arg: ast.literal_eval(keyword.value) for keyword in decorator.keywords}
    return ast.literal_eval(decorator.args[0]), texts["summary"], texts["paper"]


def _settings(name: str, classes: dict[str, ast.ClassDef]) -> list[str]:
    """The fields made by `option(...)`, those of bases first."""
    if name not in classes:
        return []
    found = [field for base in classes[name].bases for field in _settings(getattr(base, "id", ""), classes)]
    for node in classes[name].body:
        made = getattr(node.value, "func", None) if isinstance(node, ast.AnnAssign) else None
        if getattr(made, "id", None) == "option":
            found.append(node.target.id)
    return list(dict.fromkeys(found))


def _needs_layout(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    """The class attribute of that name: the class's own, or that of the first base here which has one."""
    if name not in classes:
        return False
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == "needs_layout":
            return ast.literal_eval(node.value)
    return any(_needs_layout(getattr(base, "id", ""), classes) for base in classes[name].bases)
