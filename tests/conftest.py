import pytest
import torch
from hypothesis import settings

from attncontrol import AttentionControlPipeline
from tests import tiny

torch.set_num_threads(2)
settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")


def pytest_addoption(parser):
    parser.addoption("--screenshots", metavar="DIR", help="keep the demo's screenshots there, of 30-step images")


@pytest.fixture(scope="session")
def stock():
    """A tiny random Stable Diffusion of plain diffusers; tests must leave it as it is."""
    return tiny.stable_diffusion()


@pytest.fixture(scope="session")
def pipe(stock):
    """The controlled form of `stock`, sharing its components."""
    controlled = AttentionControlPipeline.from_pipe(stock)
    controlled.set_progress_bar_config(disable=True)
    return controlled


@pytest.fixture
def generate(pipe):
    """generate(prompt, seed=0, **arguments) -> output of a short run at 32 px, latents by default."""

    def run(prompt="a cat and a frog", seed=0, **arguments):
        defaults = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        return pipe(prompt, **{"generator": generator, **defaults, **arguments})

    return run
