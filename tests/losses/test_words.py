"""Distances between attention maps of words that hardly anything attends to."""

import pytest
import torch

from attncontrol.losses.words import DISTANCES, distributions, word_distances


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("total", [0.0, 1e-42, 1e-38, 1e-20, 1e-12, 1e-3])
def test_faint_maps_have_finite_gradients(total, distance):
    attention = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    attention[..., 1] *= total
    attention.requires_grad_()
    word_distances(distributions(attention), [[0]], [[1], [2]], distance).sum().backward()
    assert attention.grad.isfinite().all() and attention.grad.norm() > 0
