"""Grounding the calls of one pipeline: phrases encoded, boxes in rows of the batch, gates opened and closed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attncontrol.arguments import nearest
from attncontrol.families.base import Call
from attncontrol.families.gligen import SLOTS, GroundedUNetFamily, with_boxes
from attncontrol.grounding.rewiring import Rewiring
from attncontrol.grounding.settings import Grounding
from attncontrol.layout import Layout
from attncontrol.prompt.structure import PromptStructure

Boxes = list[tuple[str, tuple[float, float, float, float]]]
"""The phrases of a prompt's boxes and the boxes, entity by entity."""


def grounded_boxes(
    grounding: Grounding, structure: PromptStructure, layout: Layout | None, tokenizer: Any
) -> tuple[Boxes, Layout]:
    """What a UNet is told of one prompt's layout, and the layout that says so.

    Raises:
        ValueError: Without a box, with more than the UNet has tokens for, or for a phrase that is too long.
    """
    if layout is None:
        raise ValueError(
            "grounding needs a layout: pass layout={phrase: [x0, y0, x1, y1]}, coordinates in 0..1, or 'auto'"
        )
    given = {key.lower(): phrase for key, phrase in grounding.phrases.items()}
    boxes = []
    for entity, own in zip(structure.entities, layout.boxes, strict=True):
        phrase = given.get(entity.text.lower(), given.get(entity.noun.text.lower(), entity.text))
        boxes += [(phrase, box) for box in own]
    if not boxes:
        raise ValueError("grounding: the layout has no box for any entity of the prompt")
    if len(boxes) > SLOTS:
        raise ValueError(f"grounding: the layout has {len(boxes)} boxes; the UNet has tokens for {SLOTS}")
    for phrase, _ in boxes:
        if (count := len(tokenizer(phrase).input_ids)) > (most := tokenizer.model_max_length):
            raise ValueError(f"grounding: the phrase {phrase[:60]!r} has {count} tokens; {most} are the most")
    return boxes, dataclasses.replace(layout, grounded=True)


class GroundedRun:
    """Tells the UNet of a pipeline the boxes of its images while it is installed.

    Args:
        family: Of the pipeline.
        grounding: The settings.
        boxes: One entry per prompt; a batch of several images per prompt repeats each of them in turn.
    """

    def __init__(self, family: GroundedUNetFamily, grounding: Grounding, boxes: Sequence[Boxes]) -> None:
        self.family, self.boxes, self.share = family, list(boxes), grounding.open_share
        self._rewiring = Rewiring(family, grounding.rewired)
        self._fusers: list[Any] = [block.fuser for block in family.blocks().values()]
        self._enabled: list[bool] = []
        self._told: dict[str, Tensor] = {}

    def install(self) -> None:
        """Rewires blocks."""
        self._enabled = [fuser.enabled for fuser in self._fusers]
        self._rewiring.install()

    def remove(self) -> None:
        """Leaves the UNet as it was."""
        self._rewiring.remove()
        for fuser, enabled in zip(self._fusers, self._enabled, strict=True):
            fuser.enabled = enabled

    @torch.no_grad()
    def start(self, family: GroundedUNetFamily) -> None:
        """Encodes the phrases, at the start of a run, while the text encoder is where the pipeline has it."""
        self.family, pipe = family, family.pipe
        width, device = pipe.unet.config.cross_attention_dim, pipe._execution_device
        like, count = {"device": device, "dtype": pipe.text_encoder.dtype}, len(self.boxes)
        self._told = {
            "boxes": torch.zeros(count, SLOTS, 4, **like),
            "positive_embeddings": torch.zeros(count, SLOTS, width, **like),
            "masks": torch.zeros(count, SLOTS, **like),
        }
        for row, own in enumerate(self.boxes):  # each prompt by itself, so that none depends on its neighbours
            phrases, boxes = zip(*own, strict=True)
            tokens = pipe.tokenizer(list(phrases), padding=True, return_tensors="pt").to(device)
            self._told["positive_embeddings"][row, : len(own)] = pipe.text_encoder(**tokens).pooler_output
            self._told["boxes"][row, : len(own)] = torch.tensor(boxes)
            self._told["masks"][row, : len(own)] = 1

    def told(self, args: tuple, kwargs: Call, index: int, calls: int) -> Call:
        """The keywords of call `index` of so many, with boxes; opens or closes the gates for it.

        The unconditional copies get null tokens only.
        """
        for fuser in self._fusers:
            fuser.enabled = index < int(self.share * calls)
        call = self.family.bind(args, kwargs)
        copies, conditional = self.family.batch_layout(call, len(self.boxes))
        images = len(self.family.latents(call)) // copies
        each = images // len(self.boxes)
        rows = {name: torch.cat([value.repeat_interleave(each, 0)] * copies) for name, value in self._told.items()}
        rows["masks"][: conditional * images] = 0
        return with_boxes(kwargs, rows)


def check_phrases(grounding: Grounding, structures: Sequence[PromptStructure]) -> None:
    """Raises ValueError if phrases are given for what no prompt has."""
    known = [word for s in structures for entity in s.entities for word in (entity.text, entity.noun.text)]
    for key in grounding.phrases:
        if key.lower() not in {word.lower() for word in known}:
            hint = nearest(key, dict.fromkeys(known))
            raise ValueError(f"grounding: phrases names {key!r}, which is no entity of the prompt{hint}")
