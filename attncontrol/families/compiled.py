"""Denoisers under `torch.compile`: hooks before their calls, and calls that run them as they were written."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Answer:
    """What a call gives without running the module: its output is known."""

    output: Any


Hook = Callable[[nn.Module, tuple, dict[str, Any]], tuple[tuple, dict[str, Any]] | Answer]


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
        """The hooks in their order, then the compiled call; the first answer of a hook ends it."""
        for hook in tuple(self.hooks):
            found = hook(self.module, args, kwargs)
            if isinstance(found, Answer):
                return found.output
            args, kwargs = found
        return self.compiled(*args, **kwargs)


def before_call(module: nn.Module, hook: Hook) -> Callable[[], None]:
    """Runs a hook before every call, uncompiled; returns the function that takes it away again.

    It gives the arguments to call the module with, or an `Answer` in place of the call.
    """
    call = module._compiled_call_impl
    if call is None:
        return _before_plain_call(module, hook)
    if not isinstance(call, HookedCall):
        call = module._compiled_call_impl = HookedCall(module, call)
    call.hooks.append(hook)

    def remove() -> None:
        call.hooks.remove(hook)
        if not call.hooks and module._compiled_call_impl is call:
            module._compiled_call_impl = call.compiled

    return remove


class _AnsweringForward:
    """Stands in a module's place of its forward, and gives the answers of hooks: none of them can leave it out."""

    def __init__(self, module: nn.Module) -> None:
        self.own, self.forward = vars(module).get("forward"), module.forward
        self.hooks: list[Hook] = []
        self.answers = threading.local()  # the next one of a thread, and the hook that gave it
        functools.update_wrapper(self, self.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _, answer = vars(self.answers).pop("next", (None, None))
        return self.forward(*args, **kwargs) if answer is None else answer.output

    def asking(self, hook: Hook) -> Hook:
        """A forward pre-hook that notes the answers of a hook."""

        def ask(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            found = hook(module, args, kwargs)
            if isinstance(found, Answer):
                self.answers.next = hook, found
                return args, kwargs
            if getattr(self.answers, "next", (None,))[0] is hook:  # of a call that never came
                del self.answers.next
            return found

        return ask


def _before_plain_call(module: nn.Module, hook: Hook) -> Callable[[], None]:
    forward = vars(module).get("forward")
    if not isinstance(forward, _AnsweringForward):
        forward = module.forward = _AnsweringForward(module)
    forward.hooks.append(hook)
    handle = module.register_forward_pre_hook(forward.asking(hook), with_kwargs=True)

    def remove() -> None:
        handle.remove()
        forward.hooks.remove(hook)
        if not forward.hooks and vars(module).get("forward") is forward:
            del module.forward
            if forward.own is not None:
                module.forward = forward.own

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
