"""CONFORM: maps of one object and its attributes attract, those of different objects repel (arXiv 2312.06059)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, Owners, index_tensor, on_device, resoftmax
from attncontrol.losses.base import Context, Evaluation, Refinement, at_iteration, option
from attncontrol.losses.common import DecayingStep, SmoothedMaps
from attncontrol.losses.registry import register


def nt_xent_loss(embeddings: Tensor, labels: Tensor, temperature: float = 0.5) -> Tensor:
    """Mean NT-Xent of every image's ordered positive pairs (docs/methods/conform.md, section 3).

    The denominator of a pair holds that pair and the anchor's negatives.

    Args:
        embeddings: [images, rows, pixels].
        labels: int64 [images, rows]; rows of equal label are positives, of another negatives, below 0 none.
        temperature: Divides the similarities.

    Returns:
        [images], 0 or more; 0 without a positive or a negative pair.
    """
    positive, negative = pairs(labels)
    logits = cosine_similarity(embeddings) / temperature
    # a row without negatives belongs to an image that has none at all, or to none
    logits = torch.where(negative.any(-1, keepdim=True), logits, 0)
    repelling = logits.masked_fill(~negative & negative.any(-1, keepdim=True), -torch.inf).logsumexp(-1, keepdim=True)
    probability = (logits - repelling).sigmoid()
    counted = positive & negative.any((1, 2))[:, None, None]
    terms = torch.where(counted, -(probability + torch.finfo(logits.dtype).tiny).log(), 0)
    return pair_sum(terms) / counted.sum((1, 2)).clamp(min=1)


def contrastive_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean of 1 - similarity over an image's positive pairs plus mean of similarity over its negative ones: [images].

    Each mean is over its strictly positive values, 0 if there are none (docs/methods/conform.md, section 3). Shapes
    as in `nt_xent_loss`.
    """
    similarity = cosine_similarity(embeddings)
    positive, negative = pairs(labels)
    parts = (torch.where(positive, 1 - similarity, 0).relu(), torch.where(negative, similarity, 0).relu())
    return sum((pair_sum(part) / (part > 0).sum((1, 2)).clamp(min=1) for part in parts), embeddings.new_zeros(()))


def cosine_similarity(embeddings: Tensor) -> Tensor:
    """Similarity of every row of an image to every other one: [images, rows, pixels] -> [images, rows, rows]."""
    unit = F.normalize(embeddings, dim=-1, eps=1e-12)
    return (unit[:, :, None] * unit[:, None]).sum(-1)  # no matrix product: its sums depend on the size of the batch


def pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which ordered pairs of an image's rows are positive and which negative: bool [images, rows, rows] each."""
    is_row = labels >= 0
    both = is_row[:, :, None] & is_row[:, None]
    same = labels[:, :, None] == labels[:, None]
    itself = torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    return both & same & ~itself, both & ~same


def pair_sum(terms: Tensor) -> Tensor:
    """The sum of an image's pairs [images, rows, rows] in their order, whatever rows are added behind: [images]."""
    columns = torch.cat([terms, torch.zeros_like(terms[:1])]).movedim(0, -1).contiguous()  # see `Owners.padded`
    return columns.sum(1).sum(0)[: len(terms)]


def group_labels(groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """Each token's group, tokens in order of first appearance; of several groups the last counts."""
    return {token: number for number, group in enumerate(groups) for token in group}


@register(
    "conform",
    summary="Pulls the maps of an object and its attributes together and pushes different objects apart.",
    paper="Meral et al., CVPR 2024, arXiv 2312.06059",
)
@dataclass(frozen=True, kw_only=True)
class Conform(DecayingStep, SmoothedMaps):
    """CONFORM (Meral et al., CVPR 2024, arXiv 2312.06059) with the settings of its published notebook.

    The function of the published code has other defaults: stop=0.5, softmax_normalize=True. The default variant
    repairs two of its points: softmax_normalize scales a copy of the previous maps, where the published code
    multiplies them by 100 in place at each of its evaluations and so ends in NaN; smoothing kernels other than 3
    keep the size of the map. In both variants the previous maps are kept per image, maps are (height, width), an
    entity without tokens is ignored, and everything is computed in float32.
    """

    stop: float = option(0.6, "guide up to this fraction of sampling")
    loss: Literal["ntxent", "contrastive", "ntxent_contrastive"] = option(
        "ntxent", "'ntxent_contrastive' is ntxent if the first group has several tokens, else contrastive"
    )
    temperature: float = option(0.5, "temperature of ntxent", at_least=0.001, at_most=1000)
    previous_maps: bool = option(True, "the maps of the previous step are further samples")
    anchor_step: float | None = option(
        None,
        "keep the maps of this step as the previous ones of all later steps; below 1 a fraction of sampling, from 1 "
        "on an iteration",
        at_least=0,
    )
    refine_at: tuple[float, ...] = option(
        (0, 0.2, 0.4), "steps that refine; below 1 a fraction of sampling, from 1 on an iteration", at_least=0
    )
    refinement_steps: int = option(20, "refinement moves in such a step", at_least=0, at_most=100)
    enough: float | None = option(
        None,
        "an image whose last loss was above 0 and at most this is guided no more; by default all are to the end",
        at_least=0,
        at_most=1000,
    )
    pieces: Literal["all", "first", "last"] = option("all", "which tokens of a word of several tokens take part")
    softmax_normalize: bool = option(False, "softmax over tokens before the maps are compared")
    softmax_normalize_attention_maps: bool = option(False, "softmax over the pixels of each map")

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The contrastive loss; 0 for an image without positive or negative pairs."""
        attention = self.attention(maps)
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]]
        losses = {"ntxent": partial(nt_xent_loss, temperature=self.temperature), "contrastive": contrastive_loss}
        embeddings, labels = self.embeddings(attention, contexts)
        chosen = [self._loss_of(now) for now in contexts]
        parts = {name: losses[name](embeddings, labels) for name in set(chosen)}
        loss = parts[chosen[0]]
        if len(parts) > 1:
            is_ntxent = on_device(torch.tensor([name == "ntxent" for name in chosen]), loss.device)
            loss = torch.where(is_ntxent, parts["ntxent"], parts["contrastive"])
        return Evaluation(loss, carries=self._kept(attention, contexts))

    def _loss_of(self, context: Context) -> str:
        if self.loss != "ntxent_contrastive":
            return self.loss
        return "contrastive" if [len(group) for group in self.groups(context)][:1] == [1] else "ntxent"

    def _kept(self, attention: Tensor, contexts: Sequence[Context]) -> list[Tensor | None] | None:
        """The mean attention [height, width, positions] that each image's next step compares with."""
        if not self.previous_maps:
            return None
        present = attention.detach().unbind()
        return [own if self._is_anchor(now) else now.carry for own, now in zip(present, contexts, strict=True)]

    def groups(self, context: Context) -> list[list[int]]:
        """Token positions of every entity, modifiers first; entities without any are left out."""
        chosen = {"all": slice(None), "first": slice(0, 1), "last": slice(-1, None)}[self.pieces]
        words = [(*entity.modifiers, entity.noun) for entity in context.prompt.entities]
        groups = [[i for word in group for i in word.token_indices[chosen]] for group in words]
        return [group for group in groups if group]

    def focus(self, context: Context) -> list[list[int]]:
        """The groups."""
        return self.groups(context)

    def embeddings(self, attention: Tensor, contexts: Sequence[Context]) -> tuple[Tensor, Tensor]:
        """Rows [images, rows, pixels] and labels [images, rows]: each token's current, then its previous map.

        Rows that an image does not have are filled up, with labels of -1 (docs/methods/conform.md, section 2).
        """
        tokens = [
            (image, token, label)
            for image, now in enumerate(contexts)
            for token, label in group_labels(self.groups(now)).items()
        ]
        kinds = [self.token_maps(attention, [token[:2] for token in tokens], contexts)]
        if any(now.carry is not None for now in contexts):
            present = attention.detach().unbind()
            earlier = [own if now.carry is None else now.carry for own, now in zip(present, contexts, strict=True)]
            scales = attention.new_tensor([self._previous_scale(now) for now in contexts])[:, None, None, None]
            kinds.append(self.token_maps(torch.stack(earlier), [token[:2] for token in tokens], contexts, scales))
        rows = torch.stack(kinds, 1).flatten(0, 1)
        owners = Owners(tuple(image for image, *_ in tokens for _ in kinds), len(contexts))
        labels = [
            label if kind == 0 or contexts[image].carry is not None else -1
            for image, _, label in tokens
            for kind in range(len(kinds))
        ]
        images = slice(0, len(contexts))
        numbers = owners.padded(torch.tensor(labels), -1)[:, images].T
        return owners.padded(rows)[:, images].transpose(0, 1), on_device(numbers, rows.device)

    def token_maps(
        self,
        attention: Tensor,
        tokens: Sequence[tuple[int, int]],
        contexts: Sequence[Context],
        scale: float | Tensor = 100.0,
    ) -> Tensor:
        """Flattened maps [tokens, pixels], of an image and a position each (docs/methods/conform.md, section 1)."""
        if self.softmax_normalize:
            attention = resoftmax(attention, [now.text for now in contexts], scale)
        images, positions = index_tensor(tokens, attention.device).reshape(-1, 2).T
        vectors = self.smoothed(attention[images, :, :, positions]).flatten(1)
        return torch.softmax(100 * vectors, dim=1) if self.softmax_normalize_attention_maps else vectors

    def guides(self, context: Context) -> bool:
        """Whether the iteration lies in the window and the image's loss is not `enough` yet."""
        return super().guides(context) and not self._has_enough(context)

    def _has_enough(self, context: Context) -> bool:
        # without pairs, as before the first step leaves maps to compare with, the loss is 0 and says nothing
        return self.enough is not None and 0 < (context.last_loss or 0) <= self.enough

    def refine(self, context: Context) -> Refinement:
        """A fixed number of moves at the refining steps, inside the window or not, without a threshold.

        Outside the window a step whose maps a later step compares with is looked at without a move.
        """
        if self._refines(context) and not self._has_enough(context):
            for _ in range(self.refinement_steps):
                yield self.decayed_step_size(context)
        if not self.guides(context) and self._is_remembered(context):
            yield 0.0

    def _refines(self, context: Context) -> bool:
        return context.index in {at_iteration(key, context.count) for key in self.refine_at}

    def _is_anchor(self, context: Context) -> bool:
        return self.anchor_step is None or at_iteration(self.anchor_step, context.count) == context.index

    def _is_remembered(self, context: Context) -> bool:
        if not (self.previous_maps and self._is_anchor(context)):
            return False
        last = context.count if self.anchor_step is not None else min(context.index + 2, context.count)
        later = [dataclasses.replace(context, index=i) for i in range(context.index + 1, last)]
        return any(self._refines(step) or self.guides(step) for step in later)

    def _previous_scale(self, context: Context) -> float:
        """Factor on the previous maps before their softmax over tokens.

        The published code multiplies the kept maps by 100 in place at each of its evaluations: one per step, two
        more than there are moves in a refining step (docs/methods/conform.md, section 5).
        """
        if self.variant == "default":
            return 100.0
        first = context.index if self.anchor_step is None else at_iteration(self.anchor_step, context.count) + 1
        earlier = [dataclasses.replace(context, index=i) for i in range(first, context.index)]
        evaluations = sum(self.refinement_steps + 2 if self._refines(step) else 1 for step in earlier)
        return 100.0 ** (evaluations + (context.refinements + 2 if self._refines(context) else 1))
