"""CONFORM: maps of one object and its attributes attract, those of different objects repel (arXiv 2312.06059)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, index_tensor, on_device, resoftmax
from attncontrol.losses.base import Context, Evaluation, Refinement, at_iteration, option
from attncontrol.losses.common import DecayingStep, SmoothedMaps
from attncontrol.losses.registry import register


def nt_xent_terms(embeddings: Tensor, labels: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent of every ordered positive pair (CONFORM, section 4): [pairs], 0 or more, anchors in row order.

    embeddings: [rows, pixels], labels: [rows]; rows of equal label are positives. The denominator of a pair holds
    that pair and the anchor's negatives. Empty if there is no negative pair.
    """
    same = labels[:, None] == labels
    if same.all():
        return embeddings.new_zeros(0)
    logits = cosine_similarity(embeddings) / temperature
    negatives = logits.masked_fill(on_device(same, logits.device), -torch.inf).logsumexp(1, keepdim=True)
    probability = (logits - negatives).sigmoid()
    return -(probability + torch.finfo(logits.dtype).tiny).log()[_pairs(labels, logits.device)[0]]


def nt_xent_loss(embeddings: Tensor, labels: Tensor, temperature: float = 0.5) -> Tensor:
    """Mean of `nt_xent_terms`, a constant 0 without positive or negative pairs."""
    terms = nt_xent_terms(embeddings, labels, temperature)
    return terms.mean() if len(terms) else embeddings.new_zeros(())


def contrastive_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean of 1 - similarity over positive pairs plus mean of similarity over negative ones (CONFORM, section 4).

    Each mean is over its strictly positive values, 0 if there are none. Shapes as in `nt_xent_terms`.
    """
    similarity = cosine_similarity(embeddings)
    positive, negative = _pairs(labels, similarity.device)
    parts = ((1 - similarity[positive]).relu(), similarity[negative].relu())
    return sum((part.sum() / (part > 0).sum().clamp(min=1) for part in parts), embeddings.new_zeros(()))


def cosine_similarity(embeddings: Tensor) -> Tensor:
    """Similarity of every row to every other one: [rows, pixels] -> [rows, rows]."""
    unit = F.normalize(embeddings, eps=1e-12)
    return unit @ unit.T


def group_labels(groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """Each token's group, tokens in order of first appearance; of several groups the last counts (section 3)."""
    return {token: number for number, group in enumerate(groups) for token in group}


def _pairs(labels: Tensor, device: torch.device) -> list[tuple[Tensor, ...]]:
    """Rows and columns of the positive pairs and of the negative ones, as indices on a device."""
    same = labels[:, None] == labels
    chosen = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same)
    return [tuple(on_device(axis, device) for axis in pairs.nonzero(as_tuple=True)) for pairs in chosen]


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
    temperature: float = option(0.5, "temperature of ntxent", at_least=0.001)
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
    refinement_steps: int = option(20, "refinement moves in such a step", at_least=0)
    pieces: Literal["all", "first", "last"] = option("all", "which tokens of a word of several tokens take part")
    softmax_normalize: bool = option(False, "softmax over tokens before the maps are compared")
    softmax_normalize_attention_maps: bool = option(False, "softmax over the pixels of each map")

    def evaluate(self, maps: AttentionMaps, context: Context) -> Evaluation:
        """The contrastive loss; a constant 0 without positive or negative pairs."""
        attention = maps.mean_cross(self.map_size([m.layer for m in maps.layers]))
        kept = attention.detach() if self._is_anchor(context) else context.carry
        return Evaluation(self.attention_loss(attention, context), carry=kept if self.previous_maps else None)

    def groups(self, context: Context) -> list[list[int]]:
        """Token positions of every entity, modifiers first; entities without any are left out."""
        chosen = {"all": slice(None), "first": slice(0, 1), "last": slice(-1, None)}[self.pieces]
        words = [(*entity.modifiers, entity.noun) for entity in context.prompt.entities]
        groups = [[i for word in group for i in word.token_indices[chosen]] for group in words]
        return [group for group in groups if group]

    def focus(self, context: Context) -> list[list[int]]:
        """The groups."""
        return self.groups(context)

    def attention_loss(self, attention: Tensor, context: Context) -> Tensor:
        """The loss of mean attention [height, width, positions], with `context.carry` as the previous maps."""
        groups = self.groups(context)
        if not groups:
            return attention.new_zeros(())
        embeddings, labels = self.embeddings(attention, context)
        if self.loss == "contrastive" or (self.loss == "ntxent_contrastive" and len(groups[0]) == 1):
            return contrastive_loss(embeddings, labels)
        return nt_xent_loss(embeddings, labels, self.temperature)

    def embeddings(self, attention: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Rows [rows, pixels] and labels [rows]: each token's current, then its previous map (section 3)."""
        owners = group_labels(self.groups(context))
        rows = self.token_maps(attention, list(owners), context.text)[:, None]
        if context.carry is not None:
            scale = self._previous_scale(context)
            previous = self.token_maps(context.carry, list(owners), context.text, scale)[:, None]
            rows = torch.cat([rows, previous], 1)
        labels = torch.tensor(list(owners.values()))  # stays on the CPU, where pairs can be counted
        return rows.flatten(0, 1), labels.repeat_interleave(rows.shape[1])

    def token_maps(
        self, attention: Tensor, tokens: Sequence[int], text: Sequence[slice] = (slice(1, -1),), scale: float = 100.0
    ) -> Tensor:
        """Flattened maps [tokens, pixels] from mean attention [height, width, positions] (section 2)."""
        if self.softmax_normalize:
            attention = resoftmax(attention, text, scale)
        maps = attention[..., index_tensor(tokens, attention.device)].movedim(-1, 0)
        vectors = self.smoothed(maps).flatten(1)
        return torch.softmax(100 * vectors, dim=1) if self.softmax_normalize_attention_maps else vectors

    def plain_step_size(self, context: Context) -> float:
        """The decayed step size inside the window, 0 outside or without groups (section 5)."""
        return super().plain_step_size(context) if self.groups(context) else 0.0

    def refine(self, context: Context) -> Refinement:
        """A fixed number of moves at the refining steps, inside the window or not, without a threshold (section 5).

        Outside the window a step whose maps a later step compares with is looked at without a move.
        """
        if not self.groups(context):
            return
        if self._refines(context):
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
        more than there are moves in a refining step (section 8, Q1).
        """
        if self.variant == "default":
            return 100.0
        first = context.index if self.anchor_step is None else at_iteration(self.anchor_step, context.count) + 1
        earlier = [dataclasses.replace(context, index=i) for i in range(first, context.index)]
        evaluations = sum(self.refinement_steps + 2 if self._refines(step) else 1 for step in earlier)
        return 100.0 ** (evaluations + (context.refinements + 2 if self._refines(context) else 1))
