"""Looking without steering: the attention map of every word of a prompt, by step, layer and head."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer, choose_size, match_layers, split_patterns
from attncontrol.attention.maps import AttentionMaps, head_means, token_means
from attncontrol.families.base import Call, Family
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.record import WordMaps
from attncontrol.guidance.targets import GuidedImage
from attncontrol.prompt.align import tokenize

WordPositions = Sequence[tuple[str, Sequence[int]]]


@dataclass(frozen=True)
class MapSettings:
    """Which attention maps a run records: `record_maps=MapSettings(...)`.

    Args:
        layers: Which layers, as the setting of methods; the model's default ones if absent. Those of the coarsest
            maps of at least 16x16 are taken.
        steps: The steps to look at, counted from 0; all if absent.
        per_layer: Whether to keep layers apart instead of their mean.
        per_head: Whether to keep heads apart instead of their mean.
        limit: Most bytes of the words' maps of all images of a call.

    Raises:
        ValueError: For layers or steps that can be none.

    Example:
        output = pipe("a cat and a frog", record_maps=MapSettings(layers="up.1", steps=(0, 10), per_layer=True))
        maps = output.control.images[0].word_maps
        maps.maps[0, 0, 0, maps.words.index("cat")]
    """

    layers: str | None = None
    steps: Sequence[int] | None = None
    per_layer: bool = False
    per_head: bool = False
    limit: int = 2**30

    def __post_init__(self) -> None:
        """Raise ValueError for layers or steps that can be none."""
        if self.layers is not None:
            split_patterns(self.layers)
        if self.steps is not None and not all(isinstance(step, int) and step >= 0 for step in self.steps):
            raise ValueError(f"steps must be whole numbers from 0 on, not {self.steps!r}")


def prompt_words(family: Family, prompt: str) -> WordPositions:
    """The words of a prompt that are among the text keys, in order, with their positions there."""
    tokenized = tokenize(family.tokenizer, prompt)
    found = [(match[0], tokenized.token_indices(match.span())) for match in re.finditer(r"\w[\w'-]*", prompt)]
    return [(word, positions) for word, positions in found if positions]


class MapRecorder:
    """Records the maps of a run's images in passes of their own, so that looking changes nothing.

    Args:
        family: That of the model.
        settings: What to look at.
        words: Those of every prompt, with their positions; without any the subjects' maps alone are kept.
    """

    def __init__(self, family: Family, settings: MapSettings, words: Sequence[WordPositions]) -> None:
        self.family, self.settings, self.words = family, settings, words
        self._layers: list[Layer] = []

    def look(self, call: Call, latents: Tensor, images: Sequence[GuidedImage], step: int, count: int) -> None:
        """Adds the maps at the latents that go into a step, one of `count`, to the images' records."""
        if not self._layers:
            self._layers = self._choose(self.family.layers(self.family.grid(call)))
        steps = range(count) if self.settings.steps is None else sorted(set(self.settings.steps))
        if any(number >= count for number in steps):
            raise ValueError(f"record_maps: there is no step {steps[-1]} in this run, which has 0 to {count - 1}")
        if step not in steps:
            return
        guided = GuidedPass(self.family, call, self._layers, prompts=len(self.words))
        with torch.no_grad(), guided.run(latents, range(guided.images)) as (_, maps):
            means = maps.mean_cross(self._layers[0].size)
            for image in images:
                self._add_subjects(image, means[image.row].cpu())
                if words := self.words[image.row // (len(images) // len(self.words))]:
                    if image.record.word_maps is None:
                        image.record.word_maps = self._empty(words, maps, len(steps), len(images))
                    image.record.word_maps.add(step, self._of_words(words, image.row, maps, means))

    def _choose(self, layers: Sequence[Layer]) -> list[Layer]:
        cross, pattern = [layer for layer in layers if layer.is_cross], self.settings.layers
        wanted = [layer for layer in cross if layer.by_default] if pattern is None else match_layers(cross, pattern)
        size = choose_size(wanted)
        return [layer for layer in wanted if layer.size == size]

    def _add_subjects(self, image: GuidedImage, mean: Tensor) -> None:
        """Every subject's map, from the mean over layers and heads [height, width, positions]."""
        words = [list(entity.noun.token_indices) for entity in image.target.structure.entities]
        if words:
            step = token_means(mean[None], [(0, word) for word in words], self.family.text)[None]
            image.record.maps = step if image.record.maps is None else torch.cat([image.record.maps, step])

    def _empty(self, words: WordPositions, maps: AttentionMaps, steps: int, images: int) -> WordMaps:
        """Room for an image's maps. Raises ValueError for more than the limit, and for heads that have no mean."""
        heads = {m.attention.shape[1] for m in maps.layers} if self.settings.per_head else {1}
        if len(heads) > 1:
            raise ValueError("record_maps: these layers have different numbers of heads: name others, or no per_head")
        layers = [m.layer.path for m in maps.layers]
        shape = (steps, len(layers) if self.settings.per_layer else 1, *heads, len(words), *maps.layers[0].layer.size)
        needed = 4 * images * math.prod(shape)
        if needed > self.settings.limit:
            raise ValueError(
                f"record_maps: the maps of {steps} steps take {needed / 2**20:.0f} MiB, more than the "
                f"{self.settings.limit / 2**20:.0f} allowed: look at fewer steps or layers, or keep heads or layers "
                "together"
            )
        return WordMaps([word for word, _ in words], layers, torch.zeros(shape, device="cpu"))

    def _of_words(self, words: WordPositions, row: int, maps: AttentionMaps, means: Tensor) -> Tensor:
        """One image's maps [layers, heads, words, height, width]; never is more than one layer there in full."""
        groups, text, settings = [(row, own) for _, own in words], self.family.text, self.settings
        if not settings.per_layer and not settings.per_head:
            return token_means(means, groups, text)[None, None]
        kept: list[Tensor] = []
        for layer in maps.layers:
            heads = head_means(layer, groups, text).transpose(0, 1).unflatten(-1, layer.layer.size)
            heads = heads if settings.per_head else heads.mean(0, keepdim=True)
            kept = [*kept, heads] if settings.per_layer or not kept else [kept[0] + heads]
        return torch.stack(kept) if settings.per_layer else torch.stack(kept) / len(maps.layers)
