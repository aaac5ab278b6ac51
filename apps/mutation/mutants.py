"""Mutants of a module: its syntax tree with one expression or statement changed.

What says nothing about behaviour stays as it is: annotations and other types, docstrings, decorators, texts, whatever
only phrases an error or a warning, and `strict=True`, which checks what holds anyway.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

OPERATORS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {
    "amax": "amin",
    "amin": "amax",
    "max": "min",
    "min": "max",
    "maximum": "minimum",
    "minimum": "maximum",
    "argmax": "argmin",
    "sum": "mean",
    "mean": "sum",
    "any": "all",
    "all": "any",
}
LEFT_OUT = {"abs", "clamp", "detach", "exp", "log", "sqrt"}  # x.abs() becomes x, and so does torch.abs(x)


@dataclass(frozen=True)
class Mutant:
    """A change of a module. `number` counts its changes from 0; `before` and `after` say in Python what is changed."""

    number: int
    line: int
    before: str
    after: str


@dataclass(frozen=True)
class _Change:
    line: int
    before: ast.AST
    after: ast.AST
    put: Callable[[ast.AST], None]


def mutants(source: str) -> list[Mutant]:
    """All mutants of a module."""
    return [
        Mutant(number, change.line, _text(change.before), _text(change.after))
        for number, change in enumerate(_changes(ast.parse(source)))
    ]


def mutated(source: str, number: int) -> ast.Module:
    """The syntax tree of a module with its mutant of that number."""
    tree = ast.parse(source)
    change = list(_changes(tree))[number]
    change.put(change.after)
    return ast.fix_missing_locations(tree)


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


def _changes(node: ast.AST) -> Iterator[_Change]:
    """Every change of a child of a node, in the order of the source."""
    for name, value in ast.iter_fields(node):
        if _says_nothing(name):
            continue
        children = value if isinstance(value, list) else [value]
        for position, child in enumerate(children):
            if not isinstance(child, ast.AST) or _only_speaks(child):
                continue
            for after in _variants(child):
                put = _into_list(value, position) if isinstance(value, list) else _into_field(node, name)
                yield _Change(child.lineno, copy.deepcopy(child), after, put)
            yield from _changes(child)


def _into_list(values: list[ast.AST], position: int) -> Callable[[ast.AST], None]:
    return lambda after: values.__setitem__(position, after)


def _into_field(node: ast.AST, name: str) -> Callable[[ast.AST], None]:
    return lambda after: setattr(node, name, after)


def _says_nothing(field: str) -> bool:
    return field in ("annotation", "returns", "decorator_list", "op", "ops")


def _only_speaks(node: ast.AST) -> bool:
    """Whether it only phrases an error or a warning, is a text or a type, or is for type checkers."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.keyword):
        return ast.unparse(node) == "strict=True"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _is_type(node)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(("'", '"', "warnings.warn("))


def _is_type(node: ast.AST) -> bool:
    """Whether it is a union of types, as in `str | Sequence[int] | None`: numbers have lower-case names."""
    match node:
        case ast.BinOp(op=ast.BitOr()):
            return _is_type(node.left) and _is_type(node.right)
        case ast.Subscript():
            return _is_type(node.value)
        case ast.Name(id=name):
            return name[0].isupper() or name in ("bool", "dict", "float", "int", "list", "str", "tuple")
    return isinstance(node, ast.Constant) and node.value is None


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in OPERATORS:
            yield _with(node, ops=[OPERATORS[type(operator)]()])
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) | ast.BoolOp(op=operator):
            if type(operator) in OPERATORS:
                yield _with(node, op=OPERATORS[type(operator)]())
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()):
            yield copy.deepcopy(node.operand)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 or 1.0)
        case (
            ast.If(test=ast.Name() | ast.Call() | ast.Attribute())
            | ast.IfExp(test=ast.Name() | ast.Call() | ast.Attribute())
        ):
            yield _with(node, test=ast.UnaryOp(ast.Not(), copy.deepcopy(node.test)))
        case ast.Call(func=ast.Attribute(attr=name)) if name in NAMES:
            yield _with(node, func=_with(node.func, attr=NAMES[name]))
        case ast.Call(func=ast.Attribute(attr=name, value=inner), args=args) if name in LEFT_OUT:
            is_function = isinstance(inner, ast.Name) and inner.id in ("math", "torch")
            yield copy.deepcopy(args[0] if is_function else inner)
        case ast.Call(func=ast.Name(id=name)) if name in NAMES and name not in ("sum", "mean"):
            yield _with(node, func=ast.Name(NAMES[name], ast.Load()))
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with some fields replaced."""
    other = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
