"""What is asked of a run: the target of every prompt, and the state of every image on its way there."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from attncontrol.guidance.record import ImageRecord, StepRecord
from attncontrol.layout import Layout
from attncontrol.losses.base import Reading
from attncontrol.prompt.structure import PromptStructure


@dataclass(frozen=True)
class Target:
    """What is asked of the images of one prompt: its parsed structure and, for layout methods, where things go."""

    structure: PromptStructure
    layout: Layout | None = None


@dataclass(frozen=True)
class Request:
    """An image asks to evaluate these parts (by number) and to move by their weighted gradients (all 0: only look)."""

    weights: dict[int, float]
    refining: bool = False

    @property
    def only_looks(self) -> bool:
        """Whether the latents stay where they are."""
        return not any(self.weights.values())


# answered by what the requested parts say, or by None if the move did not change the latents
Program = Generator[Request, dict[int, Reading] | None, None]


@dataclass
class GuidedImage:
    """One image of the running batch.

    `without_effect` are the parts whose gradient is of no use at its present latents; `readings` belong to the
    running round, `carries` to the running step.
    """

    row: int
    target: Target
    record: ImageRecord
    program: Program | None = None
    request: Request | None = None
    readings: dict[int, Reading] = field(default_factory=dict)
    without_effect: set[int] = field(default_factory=set)
    carries: dict[int, Any] = field(default_factory=dict)
    next_carries: dict[int, Any] = field(default_factory=dict)
    last_losses: dict[int, float] = field(default_factory=dict)

    @property
    def step(self) -> StepRecord:
        """The record of the running step."""
        return self.record.steps[-1]

    def answer(self, readings: dict[int, Reading] | None) -> None:
        """Hands what was read of the requested parts to the image's program and takes its next request."""
        assert self.program is not None
        try:
            self.request = self.program.send(readings)
        except StopIteration:
            self.request = None
