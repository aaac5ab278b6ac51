"""Diffusion transformers whose parts are elsewhere while they are guided: text encoders let go, weights offloaded."""

import inspect

import accelerate
import diffusers
import pytest
import torch

from attncontrol import AttentionControlPipeline, attach
from tests.test_transformers import PROMPT, SLOW, controlled, method, run
from tests.tiny_transformers import TRANSFORMERS

POOLED = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
ENCODED = {
    "FLUX.1": ("prompt_embeds", "pooled_prompt_embeds"),
    "SD 3": POOLED,
    "PixArt-Sigma": MASKED,
    "Sana": MASKED,
    "Qwen-Image": ("prompt_embeds", "prompt_embeds_mask"),
    "FLUX.2 Klein": ("prompt_embeds",),
    "Z-Image": ("prompt_embeds", "negative_prompt_embeds"),
    "Chroma": (
        "prompt_embeds",
        None,
        "prompt_attention_mask",
        "negative_prompt_embeds",
        None,
        "negative_prompt_attention_mask",
    ),
    "AuraFlow": MASKED,
}
"""What `encode_prompt` of a family's pipeline gives, by the names of the call's arguments."""
INSTRUCTION = inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default
SETTINGS = {
    "FLUX.2 Klein": {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 96},
    "SD 3": {"prompt_2": None, "prompt_3": None},
    "Sana": {"complex_human_instruction": INSTRUCTION},
}
CONTROL = method("attend-and-excite")


def fresh(family):
    pipe = AttentionControlPipeline.from_pipe(TRANSFORMERS[family]())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("family", [pytest.param(n, marks=() if n in ("FLUX.1", "SD 3") else SLOW) for n in ENCODED])
def test_text_is_encoded_before_guidance_starts_and_its_encoders_let_go(family):
    pipe = fresh(family)
    expected = run(pipe, control=CONTROL).images
    with torch.no_grad():
        found, *empty = (pipe.encode_prompt(text, **SETTINGS.get(family, {})) for text in (PROMPT, ""))
    encoded = {name: value for name, value in zip(ENCODED[family], found, strict=False) if name and value is not None}
    if family == "FLUX.2 Klein":
        encoded["negative_prompt_embeds"] = empty[0][0]
    for name in [name for name in pipe.components if name.startswith("text_encoder")]:
        setattr(pipe, name, None)
    known = inspect.signature(getattr(diffusers, pipe.stock_name).__call__).parameters
    negative = {"negative_prompt": None} if {"negative_prompt", "negative_prompt_embeds"} <= known.keys() else {}
    with attach(pipe, CONTROL, prompt=PROMPT) as control:
        images = run(pipe, None, **negative, **encoded).images
    assert torch.equal(images, expected)
    assert all(step.moved for step in control.record.images[0].steps)


def by_model(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def by_layer(pipe):
    accelerate.cpu_offload(pipe.transformer, torch.device("cpu"))


def by_group(pipe):
    here = torch.device("cpu")
    pipe.transformer.enable_group_offload(onload_device=here, offload_device=here, offload_type="leaf_level")


ALL_WAYS = [(way, memory) for way in (by_model, by_layer, by_group) for memory in ("fast", "low")]
WAYS = {name: ALL_WAYS for name in TRANSFORMERS} | {
    "HunyuanDiT": [(by_model, "fast")]
}  # diffusers has no others for it


@pytest.mark.parametrize(
    ("family", "way", "memory"),
    [pytest.param(n, *way, marks=() if n == "FLUX.1" else SLOW) for n in TRANSFORMERS for way in WAYS[n]],
)
def test_offloaded_models_are_guided_as_without(family, way, memory):
    pipe = fresh(family)
    way(pipe)
    images = run(pipe, control=CONTROL, memory=memory).images
    assert torch.equal(images, run(controlled(family), control=CONTROL, memory=memory).images)
