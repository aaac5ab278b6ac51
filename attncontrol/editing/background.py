"""Where a picture shows none of the nouns: clusters of its self-attention (Dynamic Prompt Learning, appendix).

Pixels are described by whom they attend to, averaged over the inversion, and clustered by k-means; a cluster whose
cells no noun looks at is background. docs/editing.md says which numbers are published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attncontrol.attention.layers import Layer, Size
from attncontrol.editing.dynamic_prompt_learning import noun_maps

CLUSTERS, RESTARTS, THRESHOLD = 5, 10, 0.2
MOST_CELLS = 1024  # of the self-attention that is clustered


class AttentionMeans:
    """Mean self- and cross-attention over the calls of a UNet; an observer for `InjectingProcessor`s.

    `self_attention` becomes [cells, cells] and `cross` [height, width, positions] of one image.
    """

    def __init__(self, layers: Sequence[Layer], cross_size: Size) -> None:
        sizes = [layer.size for layer in layers if not layer.is_cross and layer.size[0] * layer.size[1] <= MOST_CELLS]
        self.self_size, self.cross_size = max(sizes, default=cross_size), cross_size
        self._sums: dict[bool, Tensor] = {}
        self._counts: dict[bool, int] = {}

    def wants(self, layer: Layer) -> bool:
        """Whether a layer counts."""
        return layer.size == (self.cross_size if layer.is_cross else self.self_size)

    def apply(self, probabilities: Tensor, layer: Layer) -> Tensor:
        """Adds [1, heads, queries, keys] to the means, and gives it back as it is."""
        mean = probabilities[-1].mean(0)
        known = self._sums.get(layer.is_cross)
        self._sums[layer.is_cross] = mean if known is None else known + mean
        self._counts[layer.is_cross] = self._counts.get(layer.is_cross, 0) + 1
        return probabilities

    @property
    def self_attention(self) -> Tensor:
        """[cells, cells], row by row whom a cell attends to."""
        return self._sums[False] / self._counts[False]

    @property
    def cross(self) -> Tensor:
        """[height, width, positions]."""
        return (self._sums[True] / self._counts[True]).unflatten(0, self.cross_size)


def find_background(means: AttentionMeans, nouns: Sequence[Sequence[int]]) -> Tensor | None:
    """1 where no noun looks, else 0, [height, width] of the cross-attention; None if nothing is background."""
    clusters = k_means(means.self_attention, CLUSTERS, RESTARTS).unflatten(0, means.self_size)
    maps = noun_maps(means.cross, nouns)
    maps = (maps - maps.amin((1, 2), keepdim=True)) / maps.amax((1, 2), keepdim=True)
    maps = F.interpolate(maps[None], means.self_size)[0]
    scores = [maps[:, clusters == c].mean(1).max() if (clusters == c).any() else 1.0 for c in range(CLUSTERS)]
    empty = torch.tensor([c for c, score in enumerate(scores) if score <= THRESHOLD], device=clusters.device)
    return half_covered(torch.isin(clusters, empty), means.cross_size)


def half_covered(mask: Tensor, size: Size) -> Tensor | None:
    """A mask [height, width] at another size: 1 where at least half of a cell is covered; None if nowhere."""
    covered = (F.interpolate(mask.float()[None, None], size, mode="area")[0, 0] >= 0.5).float()
    return covered if covered.any() else None


def k_means(points: Tensor, clusters: int, restarts: int, iterations: int = 100) -> Tensor:
    """The cluster of every point [points, width]: [points] of whole numbers, from the best of some seeded starts."""
    generator = torch.Generator().manual_seed(0)
    points = points.float()
    best, labels = float("inf"), torch.zeros(len(points), dtype=torch.long, device=points.device)
    for _ in range(restarts):
        centres = _first_centres(points, clusters, generator)
        for _ in range(iterations):
            nearest = torch.cdist(points, centres).argmin(1)
            members = F.one_hot(nearest, clusters).to(points)
            counts = members.sum(0)[:, None]
            moved = torch.where(counts > 0, members.T @ points / counts.clamp(min=1), centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        distances, nearest = torch.cdist(points, centres).min(1)
        if (inertia := float((distances**2).sum())) < best:
            best, labels = inertia, nearest
    return labels


def _first_centres(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is a point chosen by its squared distance to those there are."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    while len(chosen) < clusters:
        distances = torch.cdist(points, points[chosen]).amin(1).cpu() ** 2
        weights = distances if distances.sum() > 0 else torch.ones_like(distances)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return points[chosen]
