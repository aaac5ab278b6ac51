"""Test-time cross-attention control for diffusers text-to-image pipelines."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("attncontrol")

_HOMES = {
    "AttentionControl": "attncontrol.control",
    "AttentionControlOutput": "attncontrol.pipelines",
    "AttentionControlPipeline": "attncontrol.pipelines",
    "attach": "attncontrol.control",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: diffusers takes seconds, and the command line seldom needs it."""
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module 'attncontrol' has no attribute {name!r}")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        losses = import_module("attncontrol.losses")
        if name == "__all__":
            value = [*_HOMES, *losses.__all__]
        elif name in losses.__all__:
            value = getattr(losses, name)
        else:
            raise AttributeError(f"module 'attncontrol' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
