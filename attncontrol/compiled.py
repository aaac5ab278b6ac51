"""Modules under `torch.compile`: what runs before a call, and calls that run eagerly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Before = Callable[[tuple, dict[str, Any]], tuple[tuple, dict[str, Any]]]


def uncompiled(module: nn.Module) -> nn.Module:
    """The module itself, where `torch.compile(module)` made a new one around it."""
    return getattr(module, "_orig_mod", module)


def run_before(module: nn.Module, before: Before) -> Callable[[], None]:
    """Lets `before` change the arguments of every call of a module; returns a function that undoes it.

    A module compiled in place (`module.compile()`) has its hooks compiled as well, so there the compiled call is
    wrapped instead: what `before` does stays outside of it.
    """
    compiled = module._compiled_call_impl
    if compiled is None:
        return module.register_forward_pre_hook(lambda _, *call: before(*call), with_kwargs=True).remove

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = before(args, kwargs)
        return compiled(*args, **kwargs)

    module._compiled_call_impl = wrapper

    def undo() -> None:
        module._compiled_call_impl = compiled

    return undo


@contextmanager
def eager(module: nn.Module) -> Iterator[None]:
    """Inside, neither the module nor any part of it runs compiled code."""
    compiled = {part: part._compiled_call_impl for part in module.modules() if part._compiled_call_impl is not None}
    try:
        for part in compiled:
            part._compiled_call_impl = None
        yield
    finally:
        for part, implementation in compiled.items():
            part._compiled_call_impl = implementation
