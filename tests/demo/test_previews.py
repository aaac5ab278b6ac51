"""Previews show what the model predicts: at the last step, the finished picture."""

import numpy as np
import pytest
import torch

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

import diffusers

from attncontrol import AttentionControlPipeline
from attncontrol.demo import previews
from attncontrol.images.visualize import heat_colours
from tests import tiny, tiny_transformers


def last_preview_and_result(pipe, monkeypatch, **arguments):
    monkeypatch.setattr(previews, "PREVIEW_SECONDS", 0)
    monkeypatch.setattr(previews, "PREVIEW_SHARE", 1)
    shown = []
    with previews.previews(pipe, 32, 32) as preview:
        image = pipe(
            "a cat and a frog",
            width=32,
            height=32,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=lambda _pipe, _index, _time, tensors: (shown.append(preview()), tensors)[1],
            **arguments,
        ).images[0]
    assert len(shown) == 3 and not previews.family_of(pipe).denoiser._forward_hooks
    return [np.asarray(picture, dtype=int) for picture in (*(item.picture for item in shown), image)]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", [diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler])
@pytest.mark.parametrize("control", [None, pytest.param("attend-and-excite", marks=pytest.mark.slow)])
def test_the_last_preview_is_the_picture(monkeypatch, scheduler, prediction, control):
    made = tiny.scheduler(scheduler, prediction_type=prediction)
    if scheduler is diffusers.DDIMScheduler:
        made.final_alpha_cumprod = torch.tensor(1.0)
    pipe = AttentionControlPipeline.from_pipe(diffusers.StableDiffusionPipeline(**tiny.components(scheduler=made)))
    *before, last, image = last_preview_and_result(pipe, monkeypatch, control=control, guidance_scale=3.0)
    assert abs(last - image).max() <= 1
    assert abs(before[0] - image).max() > 1


def test_the_last_preview_of_a_flow_model_is_the_picture(monkeypatch):
    pipe = AttentionControlPipeline.from_pipe(tiny_transformers.flux())
    *before, last, image = last_preview_and_result(pipe, monkeypatch)
    assert abs(last - image).max() <= 1
    assert abs(before[0] - image).max() > 1


def test_the_attention_of_a_preview_is_that_of_the_step_just_made(pipe, generate, monkeypatch):
    monkeypatch.setattr(previews, "PREVIEW_SECONDS", 0)
    monkeypatch.setattr(previews, "PREVIEW_SHARE", 1)
    shown = []
    with previews.previews(pipe, 32, 32) as preview:
        maps = (
            generate(
                control="attend-and-excite",
                record_maps=True,
                callback_on_step_end=lambda _pipe, _index, _time, tensors: (shown.append(preview()), tensors)[1],
            )
            .control.images[0]
            .maps
        )
    assert pipe.control_record is None
    for step, item in enumerate(shown):
        assert list(item.attention) == ["cat", "frog"]
        for word, picture in enumerate(item.attention.values()):
            expected = heat_colours((maps[step, word] / maps[: step + 1, word].max()).numpy())
            assert (np.asarray(picture) == expected).all()
