import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist has the other cores; programs that tests start inherit it

import pytest
from hypothesis import settings

# torch and the package are imported where they are used: xdist's own process, which runs no test, would wait for them.
# Without deadlines: a busy machine fails no test.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("random", deadline=None, max_examples=500, print_blob=True)


def pytest_addoption(parser):
    parser.addoption("--screenshots", metavar="DIR", help="keep the demo's screenshots there, of 30-step images")
    parser.addoption("--soak", metavar="SECONDS", type=float, default=15, help="how long visitors use the demo")


def pytest_configure(config):
    settings.load_profile("repeatable" if config.option.markexpr == "not slow" else "random")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What imports leave is never garbage: looking through it again and again took a tenth of all tests' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(config, items):
    """Property tests run in the default selection and, with random examples and many more, among the slow ones."""
    import torch

    torch.set_num_threads(1)
    for item in items:
        if "chromium" in item.fixturenames:
            item.add_marker("alone")
        if hasattr(item.obj, "hypothesis"):
            item.add_marker("property")
            if config.option.markexpr == "slow":
                item.add_marker("slow")


@pytest.fixture(scope="session")
def stock():
    """A tiny random Stable Diffusion of plain diffusers; tests must leave it as it is."""
    from tests import tiny

    return tiny.stable_diffusion()


@pytest.fixture(scope="session")
def pipe(stock):
    """The controlled form of `stock`, sharing its components."""
    from attncontrol import AttentionControlPipeline

    controlled = AttentionControlPipeline.from_pipe(stock)
    controlled.set_progress_bar_config(disable=True)
    return controlled


@pytest.fixture
def generate(pipe):
    """generate(prompt, seed=0, **arguments) -> output of a short run at 32 px, latents by default."""
    import torch

    def run(prompt="a cat and a frog", seed=0, **arguments):
        defaults = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        return pipe(prompt, **{"generator": generator, **defaults, **arguments})

    return run
