"""Denoisers under `torch.compile`: hooks before their calls, and calls that run them as they were written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

Hook = Callable[[nn.Module, tuple, dict[str, Any]], tuple[tuple, dict[str, Any]]]


def original(module: Any) -> Any:
    """The module that `torch.compile(module)` was made of; any other as it is."""
    return getattr(module, "_orig_mod", module)


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` wraps this very module, its call or its forward."""
    own = vars(module).get("forward")
    return (
        hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or hasattr(own, "_torchdynamo_orig_callable")
    )


class HookedCall:
    """Stands before a module's compiled call; hooks of the module itself would be compiled or, if new, left out."""

    def __init__(self, module: nn.Module, compiled: Callable[..., Any]) -> None:
        self.module, self.compiled = module, compiled
        self.hooks: list[Hook] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The hooks in their order, then the compiled call."""
        for hook in tuple(self.hooks):
            args, kwargs = hook(self.module, args, kwargs)
        return self.compiled(*args, **kwargs)


def before_call(module: nn.Module, hook: Hook) -> Callable[[], None]:
    """Runs a forward pre-hook before every call, uncompiled; returns the function that takes it away again."""
    call = module._compiled_call_impl
    if call is None:
        return module.register_forward_pre_hook(hook, with_kwargs=True).remove
    if not isinstance(call, HookedCall):
        call = module._compiled_call_impl = HookedCall(module, call)
    call.hooks.append(hook)

    def remove() -> None:
        call.hooks.remove(hook)
        if not call.hooks and module._compiled_call_impl is call:
            module._compiled_call_impl = call.compiled

    return remove


class _Uncompiled:
    """Holds torch's stance, which is one for all threads, as long as any of them is inside."""

    def __init__(self) -> None:
        self._lock, self._inside, self._stance = threading.Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._stance.close()


uncompiled = _Uncompiled()
"""A context in which all that `torch.compile` compiled runs as it was written, and nothing is compiled."""
