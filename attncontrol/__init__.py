"""Test-time cross-attention control for diffusers text-to-image pipelines.

Make an image:
    AttentionControlPipeline.from_pretrained(...)   a Stable Diffusion that is called with `control=`
    attach(pipe, control, prompt=...)               controls a diffusers pipeline inside a `with` block

Choose a method:
    method_classes()                                all methods by name
    create_method(name, **settings)                 the method of that name
    help(attncontrol.SynGen)                        what a method does, and its settings

Example:
    pipe = AttentionControlPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
    output = pipe("a red crown and a blue bow", control="attend-and-excite + 0.5*syngen")
    output.images[0].save("crown.png")
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attncontrol.control import AttentionControl as AttentionControl
    from attncontrol.control import attach as attach
    from attncontrol.grounding import Grounding as Grounding
    from attncontrol.guidance.looking import MapSettings as MapSettings
    from attncontrol.losses import AStar as AStar
    from attncontrol.losses import AttendAndExcite as AttendAndExcite
    from attncontrol.losses import AttentionRefocusing as AttentionRefocusing
    from attncontrol.losses import BestStart as BestStart
    from attncontrol.losses import BoxDiff as BoxDiff
    from attncontrol.losses import Conform as Conform
    from attncontrol.losses import Context as Context
    from attncontrol.losses import Ebama as Ebama
    from attncontrol.losses import Evaluation as Evaluation
    from attncontrol.losses import Focus as Focus
    from attncontrol.losses import LayoutGuidance as LayoutGuidance
    from attncontrol.losses import Method as Method
    from attncontrol.losses import MethodSum as MethodSum
    from attncontrol.losses import Redraw as Redraw
    from attncontrol.losses import SynGen as SynGen
    from attncontrol.losses import create_method as create_method
    from attncontrol.losses import method_classes as method_classes
    from attncontrol.pipelines import AttentionControlOutput as AttentionControlOutput
    from attncontrol.pipelines import AttentionControlPipeline as AttentionControlPipeline
    from attncontrol.pipelines.modular import AttentionControlStep as AttentionControlStep

__version__ = version("attncontrol")

_HOMES = {
    "AttentionControlPipeline": "attncontrol.pipelines",
    "attach": "attncontrol.control",
    "AttentionControl": "attncontrol.control",
    "AttentionControlOutput": "attncontrol.pipelines",
    "AttentionControlStep": "attncontrol.pipelines.modular",
    "Grounding": "attncontrol.grounding",
    "MapSettings": "attncontrol.guidance.looking",
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
