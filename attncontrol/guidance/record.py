"""What a run did: subjects and tokens used, losses and refinement counts per step, maps if asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from attncontrol.layout import Layout
from attncontrol.prompt.structure import PromptStructure


@dataclass
class StepRecord:
    """One iteration of one image.

    `losses` holds, per method, the value of every evaluation in order, refinement included; `refinements` counts
    the refinement moves, `moved` says whether the latents were changed at all.
    """

    index: int
    timestep: float
    losses: dict[str, list[float]] = field(default_factory=dict)
    refinements: int = 0
    moved: bool = False


@dataclass
class WordMaps:
    """Where the words of a prompt were seen, step by step: shares of the softmax over all keys.

    Args:
        words: The words, in order; one that comes twice is there twice.
        layers: The layers looked at, by path.
        room: float32 [steps, layers, heads, words, height, width] on the CPU, to be filled.
        steps: The steps looked at so far, counted from 0.
    """

    words: list[str]
    layers: list[str]
    room: Tensor
    steps: list[int] = field(default_factory=list)

    @property
    def maps(self) -> Tensor:
        """[steps, layers, heads, words, height, width]; layers and heads that were not kept apart have length 1.

        The map of a word of several tokens is their mean.
        """
        return self.room[: len(self.steps)]

    def add(self, step: int, maps: Tensor) -> None:
        """Adds the maps of a step [layers, heads, words, height, width]."""
        self.room[len(self.steps)] = maps
        self.steps.append(step)


@dataclass
class ImageRecord:
    """One image of a run.

    `maps` is float32 [steps, subjects, height, width] on the CPU: the mean cross-attention of each subject's noun,
    raw probabilities (None unless recorded). `word_maps` are those of all words, where they were asked for. `layout`
    has the boxes and masks that were used, one entry per entity of `structure` (None if no layout was given). `drafts`
    are the losses of the starting noises that were drafted, the given one first; `spared` says that a draft was good
    enough for the image to be left alone. `tries` are the losses of all pictures that were drawn of it, in order,
    where a method judges them; this record is that of the best.
    """

    structure: PromptStructure
    steps: list[StepRecord] = field(default_factory=list)
    maps: Tensor | None = None
    word_maps: WordMaps | None = None
    layout: Layout | None = None
    drafts: list[float] = field(default_factory=list)
    spared: bool = False
    tries: list[float] = field(default_factory=list)

    @property
    def subjects(self) -> dict[str, tuple[int, ...]]:
        """Each subject's text and the token indices of its noun."""
        return {entity.text: entity.noun.token_indices for entity in self.structure.entities}

    @property
    def left_out(self) -> dict[str, str]:
        """Nouns of the prompt that are no subjects, and why: {"clock": "negated"}."""
        return {item.noun.text: item.reason for item in self.structure.left_out}

    @property
    def refinements(self) -> int:
        """Refinement moves over all steps."""
        return sum(step.refinements for step in self.steps)


@dataclass
class ControlRecord:
    """One run of a controlled pipeline: one entry per image, in the order of the images."""

    images: list[ImageRecord]
