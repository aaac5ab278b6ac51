"""The reference variants against vectors of the published code of Dynamic Prompt Learning."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from attncontrol.attention.layers import Layer, choose_size
from attncontrol.editing.dynamic_prompt_learning import DynamicPromptLearning
from attncontrol.editing.injection import observed
from attncontrol.editing.inverting import Learner
from attncontrol.editing.network import Network, embedded, frozen, guided
from attncontrol.editing.null_text import NullText
from attncontrol.editing.published import PublishedBlend, PublishedInjection, last_layer, published_alignment
from attncontrol.families.unet import UNetFamily
from tests.golden import golden_cases, golden_files


@functools.cache
def tolerance(name):
    return json.loads(golden_files("dpl", "index.json")[0].read_text())["tolerance"][name]


def close(found, expected, atol, rtol=0.0):
    torch.testing.assert_close(found, torch.as_tensor(expected).to(found), atol=atol, rtol=rtol)


def settings(kwargs, **more):
    """The settings of Dynamic Prompt Learning under the names of the published code."""
    names = {
        "lam_maxattn": "balancing_weight", "lam_cosine": "disjoint_weight", "lam_entropy": "background_weight",
        "loss_type": "balancing_over", "smooth_op": "smoothing", "attn_inner_steps": "looks",
    }  # fmt: skip
    return DynamicPromptLearning.published(**{n: kwargs[o] for o, n in names.items() if o in kwargs}, **more)


@pytest.mark.parametrize("case", golden_cases("dpl", "loss"))
def test_the_losses_and_their_gradient(case):
    attention = case.tensor("attention", requires_grad=True)
    nouns = [[p] for p in case["inputs"]["token_indices"]]
    losses = settings(case["kwargs"]).losses(attention, nouns, case.tensor("background_map")[0])
    losses.total.backward()
    if case["outputs"]["total"] is None:  # a mean over no pairs, which is a defect
        assert losses.disjoint == 0 and attention.grad.isfinite().all()
        return
    for name in ("total", "balancing", "background", "disjoint"):
        close(
            getattr(losses, name).detach(), case["outputs"][name], 2e-7, tolerance("loss_rtol")
        )  # 1 - peak rounds so
    close(attention.grad, case.tensor("grad_attention"), tolerance("grad_atol"), tolerance("grad_rtol"))


@pytest.mark.parametrize("case", golden_cases("dpl", "thresholds"))
def test_the_targets_of_every_step(case):
    for step, row in enumerate(case.arrays["thresholds"]):
        balancing, disjoint, background = DynamicPromptLearning.published().targets(step)
        assert (balancing, background, disjoint) == pytest.approx(tuple(row), abs=tolerance("thresholds_atol"))


def network(unet, config, steps):
    pipe = SimpleNamespace(unet=unet, scheduler=DDIMScheduler.from_config(config), vae=None, tokenizer=None)
    return Network(UNetFamily(pipe), (unet.config.sample_size,) * 2, steps)


@pytest.fixture(scope="module")
def any_unet():
    config = {"sample_size": 16, "block_out_channels": (8,), "norm_num_groups": 4, "cross_attention_dim": 16}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    return UNet2DConditionModel(**config, **blocks, layers_per_block=1, attention_head_dim=2)


@pytest.mark.parametrize("case", golden_cases("dpl", "inversion_step"))
def test_the_steps_of_inversion(case, any_unet):
    net = network(any_unet, case["inputs"]["scheduler_config"], case["inputs"]["num_inference_steps"])
    assert net.inverter.timesteps.tolist() == case.arrays["timesteps"].tolist()
    for k, step in enumerate(case["inputs"]["steps"]):
        before, after = case.tensor("pairs")[k]
        found = net.inverse_step(case.tensor("model_output")[k], net.inverter.timesteps[step], before)
        close(found, after, tolerance("inversion_step_atol"))


@pytest.mark.parametrize("case", golden_cases("dpl", "controller"))
def test_what_is_injected_in_every_layer_and_step(case):
    kwargs, steps = case["kwargs"], case["inputs"]["steps"]
    layers = [
        Layer(str(i), one["place"], one["is_cross"], (one["queries"], 1))
        for i, one in enumerate(case["inputs"]["layers"])
    ]
    nothing = published_alignment([], [], 77, swap=True)
    nothing.weights.zero_(), nothing.matrix.zero_()
    alignment = published_alignment([], [], 77, swap=True) if "replace" in case["name"] else nothing
    if "mapper" in case:
        alignment = alignment_of(case)
    windows = kwargs["cross_replace_steps"] / steps, kwargs["self_replace_steps"] / steps
    if not alignment.matrix.any():
        windows = 0.0, 0.0
    injection = PublishedInjection(alignment, 1, *windows, (16, 16), factors_of(kwargs), last=last_layer(layers),
                                   steps=steps)  # fmt: skip
    for step in range(steps):
        injection.fraction = step / steps
        for i, layer in enumerate(layers):
            given = case.tensor(f"s{step}_l{i}_in").float()
            rows = given.unflatten(0, (4, case["inputs"]["heads"]))
            found = injection.apply(rows, layer) if injection.wants(layer) else rows
            assert torch.equal(found[:-1], rows[:-1])
            close(found[-1], case.tensor(f"s{step}_l{i}_out"), tolerance("controller_atol"))


def alignment_of(case):
    """The alignment that a case gives by its mapper and alphas."""
    mapper = case.tensor("mapper")
    alignment = published_alignment([], [], 77, swap=True)
    alignment.weights.copy_(case.tensor("alphas"))
    alignment.matrix.zero_()
    for column, row in enumerate(mapper.tolist()):
        alignment.matrix[row, column] = alignment.weights[column]
    return alignment


def factors_of(kwargs):
    if not kwargs.get("indices_to_amplify"):
        return None
    factors, scale = torch.ones(77), kwargs["amplify_scale"]
    for i, position in enumerate(kwargs["indices_to_amplify"]):
        factors[position] = scale[i] if isinstance(scale, list) else scale
    return factors


CASES = {case.id: case.values[0] for case in golden_cases("dpl")}


def model(case):
    """The UNet and the text encoder of a case, with their stored weights."""
    inputs = case["inputs"]
    weights = CASES[inputs["weights"]] if inputs.get("weights") else case
    unet = UNet2DConditionModel(**inputs["unet_config"]).eval()
    unet.load_state_dict({k[5:]: weights.tensor(k) for k in weights.arrays if k.startswith("unet.")})
    arrays = {k[5:].removeprefix("text_model."): weights.tensor(k) for k in weights.arrays if k.startswith("text.")}
    vocabulary = arrays["embeddings.token_embedding.weight"].shape[0]
    text = CLIPTextModel(CLIPTextConfig(**{**inputs["text_config"], "vocab_size": vocabulary})).eval()
    prefix = "text_model." if any(k.startswith("text_model.") for k in text.state_dict()) else ""
    missing, unexpected = text.load_state_dict({prefix + k: v for k, v in arrays.items()}, strict=False)
    assert not [k for k in missing if "position_ids" not in k] and not [k for k in unexpected if "position" not in k]
    return unet, text


def encoder(text, ids, positions):
    """Text states from the input embeddings of the nouns, whose own ids are beyond the stored vocabulary."""
    ids = ids.clamp(max=text.config.vocab_size - 1)

    def encode(tokens):
        with embedded(text, positions, tokens):
            return text(ids)[0]

    return encode


@pytest.mark.parametrize("case", golden_cases("dpl", "inversion"))
def test_a_whole_inversion(case):
    inputs, kwargs = case["inputs"], case["kwargs"]
    unet, text = model(case)
    net = network(unet, inputs["scheduler_config"], inputs["num_inference_steps"])
    positions, captions = inputs["token_indices"], case.tensor("caption_ids")
    path = [case.tensor("latents_inverted")[:1]]
    null_text = NullText.published(iterations=kwargs["null_inner_steps"])
    start = text.get_input_embeddings().weight[inputs["initializer_ids"]].detach()
    encode = encoder(text, case.tensor("input_ids"), positions)
    with torch.no_grad(), frozen(unet, text):
        for timestep in net.inverter.timesteps:
            output = net.predict(path[-1], timestep, text(captions)[0])
            path.append(net.inverse_step(output, timestep, path[-1]))
        close(torch.cat(path), case.tensor("latents_inverted"), tolerance("inversion_latents_atol"))
        request = SimpleNamespace(
            guidance_scale=inputs["guidance_scale"], learning=settings(kwargs), null_text=null_text
        )
        goals, mask = case.tensor("latents_inverted"), case.tensor("background_map")[0]
        learner = Learner(net, request, goals, [[p] for p in positions], mask, encode,
                          text(case.tensor("uncond_ids"))[0])  # fmt: skip
        latents, tokens, null = goals[-1:], start, learner.empty
        looks, errors = [], []
        for index in range(inputs["num_inference_steps"]):
            latents, tokens, null, losses = learner.step(index, latents, tokens, null)
            close(latents[0], case.tensor("latents_after_step")[index], tolerance("latents_atol"))
            close(tokens, case.tensor("tokens")[index], tolerance("tokens_atol"))
            close(null[0], case.tensor("uncond")[index], tolerance("uncond_atol"))
            looks += losses["nouns"]
            errors += losses["null"]
    close(torch.tensor(errors), case.tensor("null_losses")[:, 2], tolerance("printed_losses_atol"))
    if len(case.arrays["attention_losses"]):
        found = torch.tensor(looks)[:, [0, 1, 3, 2]]  # there: total, balancing, background, disjoint
        close(found, case.tensor("attention_losses")[:, 2:], tolerance("printed_losses_atol"))


@pytest.mark.parametrize("case", golden_cases("dpl", "edit"))
def test_a_whole_edit(case):
    inputs, kwargs, steps = case["inputs"], case["kwargs"], case["inputs"]["num_inference_steps"]
    unet, text = model(case)
    net = network(unet, inputs["scheduler_config"], steps)
    family, layers = net.family, net.family.layers(net.size)
    if kwargs["replace"] or kwargs["refine"]:
        alignment = alignment_of(case) if kwargs["refine"] else published_alignment([], [], 77, swap=True)
        windows = kwargs["cross_replace_steps"] / steps, kwargs["self_replace_steps"] / steps
    else:
        alignment, windows = published_alignment([], [], 77, swap=True), (0.0, 0.0)
    blend = PublishedBlend(kwargs["indices_local"][0], choose_size(layers)) if kwargs["local"] else None
    injection = PublishedInjection(
        alignment, 1, *windows, (16, 16), factors_of(kwargs), blend, last=last_layer(layers), steps=steps
    )
    latents = case.tensor("latents_start").repeat(2, 1, 1, 1)
    placeholders = inputs["placeholder_ids"]
    with torch.no_grad(), observed(injection, layers, family.attention_modules()):
        for index, timestep in enumerate(net.sampler.timesteps):
            injection.fraction = index / steps
            states = [
                encoder(text, ids, [p for p in range(77) if ids[0, p] in placeholders])(rows)
                for ids in (case.tensor("input_ids"), case.tensor("edit_ids"))
                for rows in [
                    torch.stack([case.tensor("tokens")[index][placeholders.index(i)] for i in ids[0].tolist()
                                 if i in placeholders])
                ]
            ]  # fmt: skip
            empty = case.tensor("uncond")[index : index + 1]
            output = net.predict(torch.cat([latents] * 2), timestep, torch.cat([empty, empty, *states]))
            latents = net.step(guided(*output.chunk(2), inputs["guidance_scale"]), timestep, latents)
            expected = case.tensor("latents_after_step")[index]
            stride = latents.shape[-1] // expected.shape[-1]
            close(latents[..., ::stride, ::stride], expected, tolerance("latents_atol"))
            if blend is not None:
                latents = torch.cat([latents[:1], blend(latents[:1], latents[1:])])
                found = latents[..., ::stride, ::stride]
                close(found, case.tensor("latents_blended")[index], tolerance("latents_atol"))
