import itertools

import torch

from attncontrol.insertion.flow_inversion import invert_flow

SIGMAS = torch.linspace(1, 0, 9)


def velocity(latents, sigma):
    """A flow that bends, strongest in the middle."""
    return torch.sin(3 * latents) * (1 + sigma) + sigma


def sampled(latents):
    for here, there in itertools.pairwise(SIGMAS):
        latents = latents + (there - here) * velocity(latents, here)
    return latents


def test_sampling_comes_back_the_nearer_the_more_often_each_step_is_taken():
    picture = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
    errors = [
        (sampled(invert_flow(picture, SIGMAS, velocity, n)[0]) - picture).abs().max().item() for n in (1, 2, 5, 20)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.001 < errors[0] / 100


def test_the_path_leads_from_noise_to_the_picture():
    picture = torch.ones(1, 3, 4)
    path = invert_flow(picture, SIGMAS, velocity)
    assert len(path) == len(SIGMAS) and path[-1] is picture
