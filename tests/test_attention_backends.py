"""Attention kernels other than torch's own: plain calls use them, guided passes do not, and they are put back."""

import math
from contextlib import nullcontext

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry, attention_backend

from attncontrol import MapSettings
from tests.test_transformers import SLOW, controlled, left_behind, method, run

DISPATCHING = ("FLUX.1", "Qwen-Image", "FLUX.2 Klein", "Z-Image", "Chroma")
FAMILIES = [pytest.param(name, marks=() if name in ("FLUX.1", "Z-Image") else SLOW) for name in DISPATCHING]
FLEX = AttentionBackendName.FLEX


@pytest.fixture
def calls(monkeypatch):
    """Puts a kernel without a backward pass, which hides queries and keys, in flex's place; gives its calls."""
    noted = []

    def kernel(query, key, value, attn_mask=None, scale=None):
        noted.append(torch.is_grad_enabled())
        q, k, v = (x.detach().transpose(1, 2) for x in (query, key, value))
        scores = q @ k.transpose(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
        if attn_mask is not None:
            is_bool = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if is_bool else scores + attn_mask
        return (scores.softmax(-1) @ v).transpose(1, 2)

    # choosing a backend for one model chooses it for all others as well
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    names = {"query", "key", "value", "attn_mask", "scale"}
    for registered, entry in (("_backends", kernel), ("_constraints", []), ("_supported_arg_names", names)):
        monkeypatch.setitem(getattr(_AttentionBackendRegistry, registered), FLEX, entry)
    return noted


def chosen(pipe):
    """The backend that every processor has for itself."""
    processors = [m.processor for m in pipe.transformer.modules() if hasattr(m, "processor")]
    return {vars(processor).get("_attention_backend") for processor in processors}


@pytest.mark.parametrize("way", ["set_attention_backend", "attention_backend"])
@pytest.mark.parametrize("family", FAMILIES)
def test_guided_passes_set_other_kernels_aside_and_put_them_back(family, way, calls):
    pipe, control = controlled(family), method("attend-and-excite", relative_step=0.05)
    stock, native = run(pipe).images, run(pipe, control=control, record_maps=MapSettings())
    with attention_backend(FLEX) if way == "attention_backend" else nullcontext():
        if way == "set_attention_backend":
            pipe.transformer.set_attention_backend(FLEX)
        try:
            own, before = chosen(pipe), left_behind(pipe)
            plain = run(pipe).images
            once = len(calls)
            guided = run(pipe, control=control, record_maps=MapSettings())
            assert own == chosen(pipe) and left_behind(pipe) == before
            with pytest.raises(KeyboardInterrupt):
                run(pipe, control=control, callback_on_step_end=interrupt)
            assert own == chosen(pipe) and left_behind(pipe) == before
        finally:
            if way == "set_attention_backend":
                pipe.transformer.reset_attention_backend()
    assert own == ({FLEX} if way == "set_attention_backend" else {None})
    assert not any(calls) and once > 0 and len(calls) == once * 2 + once // 2
    close(plain, stock)
    close(guided.images, native.images)
    assert not torch.equal(guided.images, plain)
    close(*(out.control.images[0].word_maps.maps for out in (guided, native)))


def interrupt(*_, **__):
    raise KeyboardInterrupt


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
