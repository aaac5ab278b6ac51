"""One file per method. Every module of this package is imported here and its method made public by name."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from attncontrol.losses.base import Context, Evaluation, Method, MethodSum
from attncontrol.losses.registry import create_method, method_classes

if TYPE_CHECKING:
    from attncontrol.losses.a_star import AStar as AStar
    from attncontrol.losses.attend_and_excite import AttendAndExcite as AttendAndExcite
    from attncontrol.losses.attention_refocusing import AttentionRefocusing as AttentionRefocusing
    from attncontrol.losses.best_start import BestStart as BestStart
    from attncontrol.losses.boxdiff import BoxDiff as BoxDiff
    from attncontrol.losses.conform import Conform as Conform
    from attncontrol.losses.ebama import Ebama as Ebama
    from attncontrol.losses.focus import Focus as Focus
    from attncontrol.losses.layout_guidance import LayoutGuidance as LayoutGuidance
    from attncontrol.losses.redraw import Redraw as Redraw
    from attncontrol.losses.syngen import SynGen as SynGen

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

globals().update({cls.__name__: cls for cls in method_classes().values()})

__all__ = [
    "create_method",
    "method_classes",
    "Method",
    "MethodSum",
    "Context",
    "Evaluation",
    *(cls.__name__ for cls in method_classes().values()),
]
