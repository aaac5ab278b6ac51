"""Whole runs of FOCUS's published pipelines on tiny random models: tests/golden/mmdit."""

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from attncontrol import AttendAndExcite, Conform, Focus, SynGen, attach, create_method
from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, Deferred, LayerMap
from attncontrol.losses import Evaluation
from tests import tiny
from tests.golden import golden_cases
from tests.tiny_language import t5_tokenizer
from tests.tiny_transformers import chroma, flux, pixart, quiet, sd3, vae

PARTS = {"tokenizer": tiny.tokenizer(), "tokenizer_2": tiny.tokenizer(), "tokenizer_3": t5_tokenizer()}


def published(case):
    """The pipeline of a recorded run, and the arguments of its call."""
    kwargs, is_flux = case["kwargs"], case["kwargs"]["model"] == "FLUX"
    transformer = (FluxTransformer2DModel if is_flux else SD3Transformer2DModel)(**kwargs["config"]).eval()
    weights = {name.removeprefix("weights."): case.tensor(name) for name in case.arrays if name.startswith("weights.")}
    missing, unexpected = transformer.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.startswith("pos_embed") for name in missing)
    cls = FluxPipeline if is_flux else StableDiffusion3Pipeline
    tokenizers = {"tokenizer": tiny.tokenizer(), "tokenizer_2": t5_tokenizer()} if is_flux else PARTS
    encoders = dict.fromkeys(["text_encoder", "text_encoder_2", *([] if is_flux else ["text_encoder_3"])])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=kwargs["shift"])
    pipe = quiet(cls(scheduler=scheduler, vae=vae(4), transformer=transformer, **tokenizers, **encoders))
    names = ("latents", "prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds")
    call = {name: case.tensor(name) for name in (*names, "negative_pooled_prompt_embeds") if name in case}
    call |= {"num_inference_steps": kwargs["num_inference_steps"], "guidance_scale": kwargs["guidance_scale"]}
    return pipe, {**call, "height": 32, "width": 32, "output_type": "latent"}


class Climbing(Focus):
    """As the published code moves on FLUX.1: up the gradient."""

    def evaluate(self, maps, contexts):
        return Evaluation(-super().evaluate(maps, contexts).loss)


def subjects_of(case):
    """Groups of token positions among the text keys; of T5 alone on FLUX.1."""
    t5, clip = (case["kwargs"][name][0] for name in ("t5_ids", "clip_ids"))
    if case["kwargs"]["model"] == "FLUX":
        return t5
    return [[77 + i for i in words] + list(others) for words, others in zip(t5, clip, strict=True)]


@pytest.mark.parametrize("case", golden_cases("mmdit", "loop"))
def test_published_runs(case):
    pipe, call = published(case)
    check(pipe(**call).images, case.tensor("plain_final"))
    kind = Climbing if case["kwargs"]["model"] == "FLUX" else Focus
    method = kind(variant="reference", step_size=case["kwargs"]["lambda_scale"])
    samples, length = [], call["prompt_embeds"].shape[1]
    rows = 1 if case["kwargs"]["model"] == "FLUX" else 2  # of the pipeline's calls, not of passes beside them

    def keep(module, args, kwargs):
        if not torch.is_grad_enabled() and len(kwargs["hidden_states"]) == rows:
            samples.append(kwargs["hidden_states"][:1])

    pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    with attach(pipe, method, subjects=subjects_of(case), text_length=length) as control:
        final = pipe(**call).images
    for found, expected in zip(samples, case.tensor("samples"), strict=True):
        check(found, expected)  # what the model saw is not moved
    costs = [abs(step.losses["focus"][0]) for step in control.record.images[0].steps]
    assert costs == pytest.approx(case["expected"]["costs"], rel=1e-4)
    check(final, case.tensor("final"))


def check(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("shared", [False, True])
def test_methods_that_move_before_and_after_the_call_are_not_added_up(shared):
    control = Focus(variant="reference", shared_pass=shared) + AttendAndExcite()
    with pytest.raises(ValueError, match="focus moves latents after the model's call"):
        run_flux(control)


def run_flux(control):
    pipe, prompt = flux(), "a cat and a frog"
    with attach(pipe, control, prompt=prompt):
        pipe(prompt, num_inference_steps=2, height=32, width=32, output_type="latent")


@pytest.mark.parametrize("build", [pixart, tiny.stable_diffusion])
def test_there_is_no_reference_where_no_code_is_published(build):
    with pytest.raises(ValueError, match=r"focus: no published code controls a (PixArt|UNet)"):
        attach(build(), Focus(variant="reference"), prompt="a cat and a frog")


def test_a_published_method_of_unets_has_no_reference_on_transformers():
    with pytest.raises(ValueError, match="syngen: no published code controls a FluxTransformer2DModel"):
        attach(flux(), SynGen(variant="reference"), prompt="a red cat")


def test_keys_of_the_text_alone_make_maps_of_sum_1():
    pipe, prompt = flux(), "a cat and a frog"
    images = []
    for keys in ("joint", "text"):
        with attach(pipe, Focus(keys=keys), prompt=prompt):
            generator = torch.Generator().manual_seed(0)
            call = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "latent"}
            images.append(pipe(prompt, generator=generator, **call).images)
    assert not torch.equal(*images)
    layer = Layer("transformer_blocks.0.attn", "joint", True, (2, 2))
    maps = AttentionMaps((LayerMap(layer, Deferred((1, 2, 4, 7), lambda images, queries: torch.rand(1, 2, 4, 7))),))
    assert maps.of([layer], "text").layers[0].probabilities.sum(-1) == pytest.approx(1)


@pytest.mark.parametrize("name", ["attend-and-excite", "conform"])
@pytest.mark.parametrize("build", [flux, sd3])
def test_methods_of_unets_are_there_as_focus_publishes_them(build, name):
    """The criterion with FOCUS's numbers, by name or not, under the method's own name."""
    pipe, prompt, found = build(), "a red cat and a frog", []
    own = create_method(name, variant="reference")
    for control in (Focus(variant="reference", criterion=name), own, {"method": name, "variant": "reference"}):
        with attach(pipe, control, prompt=prompt) as controlled:
            call = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "latent"}
            images = pipe(prompt, generator=torch.Generator().manual_seed(0), **call).images
        steps = controlled.record.images[0].steps
        found.append((images, [list(step.losses.values()) for step in steps], all(step.moved for step in steps)))
        assert {key for step in steps for key in step.losses} == {"focus" if control.__class__ is Focus else name}
    assert found[0][2]
    for images, losses, moved in found[1:]:
        assert torch.equal(images, found[0][0]) and losses == found[0][1] and moved


def test_published_numbers_are_not_mixed_with_others():
    control = Conform(variant="reference", stop=0.3, layers="joint.0")
    message = (
        "conform: variant='reference' has FOCUS's published numbers .* leave out stop, layers; .*criterion='conform'"
    )
    with pytest.raises(ValueError, match=message):
        attach(flux(), control, prompt="a cat and a frog")


def test_focus_publishes_nothing_for_the_kin_of_flux():
    with pytest.raises(ValueError, match="attend-and-excite: no published code controls a ChromaTransformer2DModel"):
        attach(chroma(), AttendAndExcite(variant="reference"), prompt="a cat and a frog")
