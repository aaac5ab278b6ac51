"""What injection, blend and inversion do to pictures: on the bundled model, whose maps show things.

The maps of random weights are nearly even. Handing them on changes an edit by a hundredth, in either direction, and a
mask of all that is above 0.3 of their peak is the whole picture: nothing of this can be seen there.
"""

import numpy as np
import pytest
import torch

from attncontrol import AttentionControlPipeline

pytestmark = pytest.mark.slow

SOURCE, TARGET = "a red car and a cat", "a blue car and a cat"
SAMPLING = {"num_inference_steps": 10, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def emoji():
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def distance(emoji):
    """distance(**arguments) -> how far the edits of four seeds are from their sources, and their latents."""

    def measure(**arguments):
        output = emoji.edit(SOURCE, TARGET, seed=range(4), output_type="latent", **SAMPLING, **arguments)
        return (output.images - output.sources).flatten(1).norm(dim=1), output

    return measure


def test_each_window_brings_every_edit_nearer_to_its_source(distance):
    plain, _ = distance(cross=0, self_attention=0)
    for windows in ({"cross": 0.8, "self_attention": 0}, {"cross": 0, "self_attention": 0.8}, {}):
        assert (distance(**windows)[0] < plain).all()


def test_the_local_blend_leaves_alone_what_lies_elsewhere(distance):
    _, output = distance(local="car")
    changed = (output.images - output.sources).abs().amax(1) > 1e-5
    assert (changed.flatten(1).float().mean(1) < 0.7).all() and changed.flatten(1).any(1).all()
    _, everywhere = distance()
    assert ((everywhere.images - everywhere.sources).abs().amax(1) > 1e-5).float().mean() > 0.95


def test_null_text_reconstructs_a_picture_far_better_than_ddim(emoji):
    sampling = {**SAMPLING, "num_inference_steps": 25}  # with fewer, the steps are too long for either
    image = emoji(SOURCE, generator=torch.Generator().manual_seed(3), **sampling).images[0]

    def quality(method):
        inversion = emoji.invert(image, SOURCE, method, **sampling)
        again = emoji.reconstruct(inversion).images[0]
        return 10 * np.log10(255**2 / np.mean((np.asarray(again, float) - np.asarray(image, float)) ** 2))

    assert quality("null-text") > quality("ddim") + 3
