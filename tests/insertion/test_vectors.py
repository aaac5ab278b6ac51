"""The reference variant against vectors of the published code of Add-it, where ../shared is present."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

from attncontrol.attention.layers import Layer
from attncontrol.insertion.extended_attention import ExtendedAttention, extended_attention, text_masses
from attncontrol.insertion.flow import Flow, Text, sigmas_of
from attncontrol.insertion.inserting import Inserter, Scene, accumulated
from attncontrol.insertion.masks import blended, find_box, find_points, segmented, smoothed, subject_mask
from attncontrol.insertion.settings import AddIt
from attncontrol.insertion.weight import find_weight
from tests.golden import golden_cases, golden_files

STEPS = 30


@functools.cache
def tolerance(name):
    return json.loads(golden_files("addit", "index.json")[0].read_text())["tolerance"][name]


def near(found, expected, name):
    torch.testing.assert_close(found, expected.to(found), atol=tolerance(name), rtol=0)


def stored(case) -> torch.Tensor:
    """The last subject token's map, the mean over layers, as the published code goes on with it."""
    maps = case.tensor("stored").float().mean(0)[-1]
    return smoothed(maps.unflatten(0, (round(len(maps) ** 0.5),) * 2))


@pytest.mark.parametrize("case", golden_cases("addit", "extended_attention"))
def test_the_target_sees_its_source(case):
    query, key, value = (case.tensor(name).float() for name in ("query", "key", "value"))
    found = extended_attention(query, key, value, case["inputs"]["text_tokens"], case["kwargs"]["extended_scale"])
    near(found, case.tensor("output"), "attention_atol")


@pytest.mark.parametrize("case", golden_cases("addit", "accumulation"))
def test_what_is_kept_of_recorded_steps(case):
    for layer in range(len(case["inputs"]["layers"])):
        names = [f"_s{step}_l{layer}" for step in range(case["inputs"]["steps"])]
        steps = [(case.tensor(f"text_to_image{n}"), case.tensor(f"image_to_text{n}")) for n in names]
        expected = case.tensor(f"stored_image_to_text_l{layer}")
        torch.testing.assert_close(accumulated(steps), expected, rtol=tolerance("accumulation_rtol"), atol=0)


@pytest.mark.parametrize("case", golden_cases("addit", "mask"))
def test_the_mask(case):
    attention, threshold = stored(case), case["kwargs"]["thr_number"]
    mask = subject_mask(attention) if threshold is None else attention > threshold
    assert (mask != case.tensor("mask")[0].bool()).sum() <= tolerance("mask_pixels")


@pytest.mark.parametrize("case", golden_cases("addit", "blend"))
def test_the_blend(case):
    source, target = case.tensor("latents").float()
    found = blended(source, target, subject_mask(stored(case)).float())
    near(found, case.tensor("target_after"), "blend_atol")


@pytest.mark.parametrize("case", golden_cases("addit", "segmenter"))
def test_a_segmenter_is_shown_points_and_box(case):
    from PIL import Image

    height, width = case["inputs"]["image_size"]
    shape = case.tensor("segmentation_shape").tolist()
    masks = np.unpackbits(case.arrays["segmentation"])[: np.prod(shape)].reshape(shape)
    attention = stored(case)
    mask = subject_mask(attention)
    share = segmented(lambda *_: masks, Image.new("RGB", (width, height)), attention, mask)
    source, target = case.tensor("latents").float()
    near(blended(source, target, share), case.tensor("target_after"), "blend_atol")
    if "points" in case:
        assert [list(point) for point in find_points(attention, mask, (height, width))] == case.tensor(
            "points"
        ).tolist()
    if "box" in case:
        assert list(find_box(mask, (height, width))) == case.tensor("box")[0].tolist()


@pytest.mark.parametrize("case", golden_cases("addit", "gamma"))
def test_the_automatic_weight(case):
    inputs, asked = case["inputs"], []

    def masses(gamma):
        of_layers = []
        for layer in range(inputs["layers"]):
            keys = case.tensor(f"key_l{layer}").float()
            keys[:, inputs["source_image_tokens"] :] *= gamma
            query = case.tensor(f"query_text_l{layer}").float()
            of_layers.append(text_masses(query, keys, inputs["source_image_tokens"]))
        return torch.tensor(of_layers).mean(0)

    def ratio(gamma):
        asked.append(gamma)
        source, target = masses(gamma).tolist()
        return target / source

    for gamma, source, text, target in case.tensor("probes").tolist():
        found = masses(gamma).tolist()
        assert found == pytest.approx([source, target], rel=tolerance("probes_rtol"))
        assert inputs["text_tokens"] - sum(found) == pytest.approx(text, rel=10 * tolerance("probes_rtol"))
    if case["outputs"]["gamma"] is None:
        with pytest.raises(ValueError, match=r"no gamma on 1\.\.1\.2"):
            find_weight(ratio, strict=True)
    else:
        found = find_weight(ratio, strict=True)
        assert found == pytest.approx(case["outputs"]["gamma"], abs=tolerance("gamma_atol"))
    assert asked == pytest.approx(case["outputs"]["gammas"], abs=tolerance("gamma_atol"))


@pytest.mark.parametrize("case", golden_cases("addit", "schedule"))
def test_noise_levels_and_a_step(case):
    inputs = case["inputs"]
    scheduler = FlowMatchEulerDiscreteScheduler(**inputs["scheduler_config"])
    tokens = inputs["height"] * inputs["width"] // 256
    sigmas = sigmas_of(scheduler, inputs["num_inference_steps"], tokens)
    near(sigmas, case.tensor("sigmas"), "sigmas_atol")
    flow = Flow(torch.nn.Module(), sigmas, torch.zeros(0, 3))
    near(flow.step(case.tensor("sample"), case.tensor("model_output"), 2), case.tensor("prev_sample"), "sigmas_atol")


def positions(side: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()


@pytest.mark.parametrize("case", golden_cases("addit", "loop"))
def test_whole_runs(case):
    inputs, kwargs = case["inputs"], case["kwargs"]
    transformer = FluxTransformer2DModel(**inputs["transformer_config"]).eval()
    weights = {name: case.tensor(name) for name in case.arrays if name.startswith("transformer.")}
    transformer.load_state_dict({name.removeprefix("transformer."): value for name, value in weights.items()})
    size = (inputs["height"] // 16, inputs["width"] // 16)
    stacks = ("transformer_blocks", "joint"), ("single_transformer_blocks", "single")
    layers = [Layer(f"{stack}.{i}.attn", place, True, size) for stack, place in stacks for i in range(2)]
    modules = {layer.name: transformer.get_submodule(layer.name) for layer in layers}
    states, pooled = case.tensor("prompt_embeds").float(), case.tensor("pooled").float()
    texts = [Text(states[i : i + 1], pooled[i : i + 1], torch.zeros(states.shape[1], 3)) for i in range(2)]
    guidance = inputs["guidance_scale"]
    guidance = tuple(guidance) if isinstance(guidance, list) else (guidance, guidance)
    settings = AddIt(
        variant="reference",
        gamma=kwargs["extended_scale"],
        joint_stop=(kwargs["extended_steps_multi"] + 1) / STEPS,
        single_stop=(kwargs["extended_steps_single"] + 1) / STEPS,
        transfer=kwargs["structure_transfer_step"] / STEPS,
        blend=[step / STEPS for step in kwargs["blend_steps"]],
        offset=kwargs["use_offset"],
        inversion="noise" if inputs["mode"] == "noised" else "fixed-point",
    )
    attention = ExtendedAttention(modules, list(modules.values()), states.shape[1], [0])
    flow = Flow(transformer, case.tensor("sigmas"), positions(size[0]))
    scene = Scene(tuple(texts), guidance, size, layers, layers)
    inserter = Inserter(flow, attention, settings, scene, None, lambda latents, what: None)
    clean, noise = case.tensor("source_latents"), case.tensor("noise")
    entering = []
    step = flow.step

    def watched(latents, velocity, index):
        entering.append(latents)
        return step(latents, velocity, index)

    with torch.no_grad(), attention.installed():
        path = None if inputs["mode"] == "generated" else inserter.invert(clean, noise[:1])
        flow.step = watched
        found = inserter.insert(clean, noise, path)
    if "inverted" in case:
        near(torch.cat(path[::-1]), case.tensor("inverted"), "loop_atol")
    near(torch.stack(entering), case.tensor("latents_before_step"), "loop_atol")
    near(torch.cat([found.source, found.target]), case.tensor("latents_final"), "loop_atol")
