"""Where things should be: boxes and masks, read from the user, placed on a prompt's entities, put on a map's cells."""

from attncontrol.layout.automatic import automatic_layout
from attncontrol.layout.llm import layout_request, read_layout_answer
from attncontrol.layout.placing import layout_to_json, place
from attncontrol.layout.reading import PlacedPhrase, RawLayout, read_layout
from attncontrol.layout.regions import Box, Layout, Region, bounding_box, cell_box, cell_mask, cell_masks, cell_union

__all__ = [
    "Box",
    "Layout",
    "PlacedPhrase",
    "RawLayout",
    "Region",
    "automatic_layout",
    "bounding_box",
    "cell_box",
    "cell_mask",
    "cell_masks",
    "cell_union",
    "layout_request",
    "layout_to_json",
    "place",
    "read_layout",
    "read_layout_answer",
]
