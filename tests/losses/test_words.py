"""Distances between attention maps of words that hardly anything attends to."""

import pytest
import torch

from attncontrol.losses.words import DISTANCES, FAINT, distributions, symmetric_kl, word_distances


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("total", [0.0, 1e-42, 1e-38, 1e-20, 1e-12, 1e-3])
def test_faint_maps_have_finite_gradients(total, distance):
    attention = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    attention[..., 1] *= total
    attention.requires_grad_()
    word_distances(distributions(attention[None]), [(0, [0], [1]), (0, [0], [2])], distance).sum().backward()
    assert attention.grad.isfinite().all() and attention.grad.norm() > 0


@pytest.mark.parametrize("scale", [torch.finfo(torch.float32).tiny, 1e-30, 9e-13, 1.1e-12, 1e-3])
def test_distributions_do_not_depend_on_the_scale_of_a_map(scale):
    attention = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    attention[..., 1] /= attention[..., 1].max()
    scaled = attention * torch.tensor([1, scale, 1])
    torch.testing.assert_close(distributions(scaled[None]), distributions(attention[None]), rtol=1e-5, atol=1e-7)


def test_a_lone_pixel_as_faint_as_the_limit_has_all_of_the_distribution():
    attention = torch.zeros(2, 2, 1)
    attention[0, 1] = FAINT
    assert distributions(attention[None])[0].tolist() == [[0, 1, 0, 0]]


def test_a_map_below_the_smallest_normal_number_stays_as_it_is():
    attention = torch.ones(2, 2, 2) * torch.tensor([1e-40, 0])
    assert distributions(attention[None])[0].equal(attention.flatten(0, 1).T)


def test_a_share_of_one_counts_as_a_little_less():
    """As in the published code: there the logarithm is constant, and so the weight alone has a gradient."""
    p, q = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.5, 0.5]])
    eps = torch.finfo(p.dtype).eps
    distance = symmetric_kl(p, q)
    logs = torch.tensor([1 - eps, eps]).log() - q.log()
    torch.testing.assert_close(distance, ((p - q) * logs).sum(-1) / 2)
    distance.sum().backward()
    torch.testing.assert_close(p.grad, logs / 2)
