"""Stable Diffusion 2.x: 768 px, heads per level, velocity prediction, a text encoder whose padding draws attention."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel

from attncontrol import AttendAndExcite, AttentionControlPipeline
from attncontrol.families import family_of
from tests import tiny

PROMPT = "a cat! and a frog"


@pytest.fixture(scope="module")
def pipe():
    controlled = AttentionControlPipeline.from_pipe(tiny.second())
    controlled.set_progress_bar_config(disable=True)
    return controlled


def run(pipe, **arguments):
    call = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "latent", **arguments}
    return pipe(PROMPT, generator=torch.Generator().manual_seed(0), **call)


@pytest.mark.parametrize(("pixels", "size"), [(768, (24, 24)), (512, (16, 16))])
def test_layers_of_the_full_size_unet(pixels, size):
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True, sample_size=96,
        )  # fmt: skip
    family = family_of(tiny.second(unet=unet))
    chosen = AttendAndExcite().select_layers(family.layers((pixels // 8, pixels // 8)))
    assert {layer.size for layer in chosen} == {size}
    assert [layer.path for layer in chosen] == ["down.2.0.0", "down.2.1.0", "up.1.0.0", "up.1.1.0", "up.1.2.0"]


def test_end_of_text_and_padding_stay_out_of_the_softmax(pipe):
    losses = {}
    for normalize_eot in (None, True, False):
        output = run(pipe, control=AttendAndExcite(thresholds={}, normalize_eot=normalize_eot))
        assert output.control.images[0].subjects == {"cat": (2,), "frog": (6,)}
        losses[normalize_eot] = output.control.images[0].steps[0].losses["attend-and-excite"]
    assert losses[None] == losses[True] != losses[False]


@pytest.mark.parametrize("cls", [DDIMScheduler, EulerDiscreteScheduler])
def test_velocity_prediction(pipe, cls):
    pipe.scheduler = tiny.scheduler(cls, prediction_type="v_prediction")
    control = AttendAndExcite(thresholds={0: 0.9999}, max_refinement_steps=2, step_size=100)
    output = run(pipe, control=control)
    losses = output.control.images[0].steps[0].losses["attend-and-excite"]
    assert losses[-1] < losses[0]
    assert torch.isfinite(output.images).all() and not torch.equal(output.images, run(pipe).images)
