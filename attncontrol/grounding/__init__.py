"""Grounded generation: telling a UNet with gates (GLIGEN) the boxes of a layout. docs/grounding.md explains it."""

from attncontrol.grounding.add_on import add_gates
from attncontrol.grounding.settings import Grounding, read_grounding

__all__ = ["Grounding", "add_gates", "read_grounding"]
