"""Jobs: one image each, with a key that is a hash of everything that determines it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attncontrol.images.sampling import Sampling
from attncontrol.layout import RawLayout, read_layout


@dataclass(frozen=True)
class Job:
    """One image to make, of JSON types only.

    `control` has every part with all settings (`control_to_json`), None for plain sampling; `layout` is what
    `read_layout` reads, `grounding` what `read_grounding` reads. `file`, `row` (from 0, counted over the file's rows)
    and `metadata` say where it comes from and do not influence the image.
    """

    id: str
    seed: int
    prompt: str
    sampling: Sampling
    control: list[dict[str, Any]] | None
    subjects: Any
    layout: Any
    file: str
    row: int
    metadata: dict[str, Any] | None = None
    grounding: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """File name without extension."""
        return f"{self.id}_{self.seed}"

    @property
    def settings(self) -> str:
        """Jobs of equal settings can be made in one batch."""
        has_negative = bool(self.sampling.negative_prompt)
        return json.dumps([self.sampling.arguments(), has_negative, self.control, self.grounding])

    def key(self, model: str) -> str:
        """SHA-256 of all that determines the image. `model` stands for the model, its settings and the versions."""
        described = {
            "model": model,
            "prompt": self.prompt,
            "negative_prompt": self.sampling.negative_prompt,
            "seed": self.seed,
            "steps": self.sampling.steps,
            "guidance_scale": self.sampling.guidance_scale,
            "size": [self.sampling.width, self.sampling.height],
            "control": self.control,
            "subjects": self.subjects,
            "layout": _layout_digest(self.layout),
        }
        if self.grounding is not None:
            described["grounding"] = self.grounding
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _layout_digest(layout: Any) -> Any:
    """What a layout says, whatever mask files it names."""
    if layout is None or layout == "auto":
        return layout
    placed: RawLayout = read_layout(layout)
    return [[item.phrase, item.tokens, [_region_digest(region) for region in item.regions]] for item in placed]


def _region_digest(region: Any) -> Any:
    if isinstance(region, Tensor):
        return [list(region.shape), hashlib.sha256(region.byte().numpy().tobytes()).hexdigest()]
    return region
