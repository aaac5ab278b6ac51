"""One file per method. Every module of this package is imported here and its method made public by name."""

import importlib
import pkgutil

from attncontrol.losses.base import Context, Evaluation, Method, MethodSum
from attncontrol.losses.registry import create_method, method_classes

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

globals().update({cls.__name__: cls for cls in method_classes().values()})

__all__ = [
    "Context",
    "Evaluation",
    "Method",
    "MethodSum",
    "create_method",
    "method_classes",
    *(cls.__name__ for cls in method_classes().values()),
]
