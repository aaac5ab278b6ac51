"""Every registered method on every kind of UNet: what must hold whatever the loss is."""

import dataclasses
import functools
import warnings

import pytest
import torch

from attncontrol import AttentionControlPipeline, create_method, method_classes
from attncontrol.attention.probabilities import attention_probabilities
from attncontrol.losses.base import Method
from tests import tiny

METHODS = list(method_classes())
FAMILIES = {
    "1.x": lambda: tiny.stable_diffusion(),
    "2.x": tiny.second,
    "text at one size only": lambda: tiny.stable_diffusion(
        unet=tiny.unet(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            mid_block_type="UNetMidBlock2D",
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    ),
    "XL": tiny.stable_diffusion_xl,
}
PROMPT = "a red cat and a blue frog"
LAYOUT = {"red cat": [0.0, 0.1, 0.5, 0.9], "blue frog": [0.5, 0.1, 1.0, 0.9]}
QUICK = {"max_refinement_steps": 2, "refinement_steps": 2, "tries": 2}
STEPS = 2


def quick(name: str, **settings) -> Method:
    """A method with strong steps and little refinement."""
    known = {f.name for f in dataclasses.fields(method_classes()[name])}
    few = {key: value for key, value in QUICK.items() if key in known}
    return create_method(name, **{"step_size": 200.0, "relative_step": None, "stop": 1.0, **few, **settings})


def layout_for(name: str, layout=LAYOUT):
    return layout if method_classes()[name].needs_layout else None


@functools.cache
def pipeline(kind, dtype=torch.float32):
    """Built once; tests must leave it as it is."""
    pipe = AttentionControlPipeline.from_pipe(FAMILIES[kind]())
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype=dtype)


@pytest.fixture(scope="module")
def first_family():
    return pipeline("1.x")


def run(pipe, prompt=PROMPT, seed=0, **arguments):
    many = isinstance(prompt, list)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompt) if many else 1)]
    defaults = {"num_inference_steps": STEPS, "height": 32, "width": 32, "output_type": "latent"}
    return pipe(prompt, generator=generators, **{**defaults, **arguments})


@functools.cache
def drawn(kind, name=None):
    """What a family draws plain or with a method, and its attention processors before: several tests compare it."""
    pipe = pipeline(kind)
    processors = dict(pipe.unet.attn_processors)
    return run(pipe, control=name and quick(name), layout=name and layout_for(name)), processors


FAST = ("1.x", "XL"), ("attention-refocusing", "conform")
"""Families that the fast selection tries with every method, and methods that it tries with every family."""
pairs = pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=[] if kind in FAST[0] or name in FAST[1] else pytest.mark.slow)
        for kind in FAMILIES
        for name in METHODS
    ],
)


@pairs
def test_control_changes_the_image_and_leaves_the_pipeline_alone(kind, name):
    plain, processors = drawn(kind)
    guided, _ = drawn(kind, name)
    assert torch.isfinite(guided.images).all()
    assert not torch.equal(guided.images, plain.images)
    assert guided.control.images[0].steps[0].losses.keys() == {name}
    unet = pipeline(kind).unet
    assert all(unet.attn_processors[key] is processor for key, processor in processors.items())
    assert torch.equal(run(pipeline(kind)).images, plain.images)


@pairs
def test_recording_maps_changes_no_latent(kind, name):
    watched = run(pipeline(kind), record_maps=True, control=quick(name), layout=layout_for(name))
    assert torch.equal(watched.images, drawn(kind, name)[0].images)
    assert watched.control.images[0].maps is not None


@pytest.mark.parametrize("name", METHODS)
def test_weight_zero_is_the_plain_pipeline(first_family, name):
    control = 0 * quick(name)
    output = run(first_family, control=control, layout=layout_for(name))
    assert torch.equal(output.images, drawn("1.x")[0].images)


@pytest.mark.parametrize("name", METHODS)
def test_an_image_does_not_depend_on_the_others_of_its_batch(first_family, name):
    prompts = [PROMPT, "a big dog with a red bow"]
    layouts = [layout_for(name), layout_for(name, {"dog": [0, 0, 0.5, 1], "bow": [0.5, 0.5, 1, 1]})]
    layouts = layouts if layouts[0] else None
    arguments = {"control": quick(name)}
    together = run(first_family, prompts, layout=layouts, **arguments).images
    for i, prompt in enumerate(prompts):
        alone = run(first_family, prompt, seed=i, layout=layouts and layouts[i], **arguments).images
        torch.testing.assert_close(together[i], alone[0], rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("1.x", torch.float16),
        ("XL", torch.bfloat16),
        pytest.param("1.x", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("XL", torch.float16, marks=pytest.mark.slow),
    ],
)
def test_half_precision_weights(name, kind, dtype):
    pipe = pipeline(kind, dtype)
    arguments = {"control": quick(name), "layout": layout_for(name)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # no update may be skipped
        output = run(pipe, **arguments)
    assert output.images.dtype == dtype
    assert any(step.moved for step in output.control.images[0].steps)


@pairs
def test_non_square_images(kind, name):
    arguments = {"control": quick(name), "layout": layout_for(name), "width": 48, "num_inference_steps": 1}
    output = run(pipeline(kind), **arguments)
    assert output.images.shape[-2:] == (16, 24)
    assert any(step.moved for step in output.control.images[0].steps)


ODD_PROMPTS = {  # the prompt, and one of its things (None if it has none)
    "no noun": (", . ,", None),
    "one noun": ("a cat", "cat"),
    "the same noun twice": ("a cat and a cat", "cat"),
    "nothing but the entity": ("red cat", "cat"),
    "accents": ("a café and a naïve cat", "café"),
    "emoji": ("a 🐱 and a cat", "🐱"),
    "only punctuation": ("!?...", None),
    "modifier without noun": ("red and", "red"),
    "200 words": ("a red cat and a blue frog " * 29, "cat"),
}


@pytest.mark.parametrize("name", METHODS)
def test_odd_prompts_are_sampled(first_family, name):
    """A method that needs a layout says so where there is nothing to place; all other prompts are sampled."""
    needs_layout = method_classes()[name].needs_layout
    arguments = {"control": quick(name), "num_inference_steps": 1}
    sampled = {kind: odd for kind, odd in ODD_PROMPTS.items() if odd[1] or not needs_layout}
    prompts = [prompt for prompt, _ in sampled.values()]
    layouts = [{thing: [0.0, 0.0, 0.5, 1.0]} for _, thing in sampled.values()] if needs_layout else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        images = run(first_family, prompts, layout=layouts, **arguments).images
        for prompt, _ in (ODD_PROMPTS[kind] for kind in ODD_PROMPTS.keys() - sampled.keys()):
            with pytest.raises(ValueError, match="the layout names 'cat', which is not in the prompt"):
                run(first_family, prompt, layout={"cat": [0.0, 0.0, 0.5, 1.0]}, **arguments)
    assert [kind for kind, image in zip(sampled, images, strict=True) if not torch.isfinite(image).all()] == []


ODD_BOXES = {
    "overlapping": {"red cat": [0, 0, 0.7, 1], "blue frog": [0.3, 0, 1, 1]},
    "the same": {"red cat": [0.2, 0.2, 0.8, 0.8], "blue frog": [0.2, 0.2, 0.8, 0.8]},
    "one in the other": {"red cat": [0, 0, 1, 1], "blue frog": [0.4, 0.4, 0.6, 0.6]},
    "several for one": {"red cat": [[0, 0, 0.3, 1], [0.2, 0, 0.5, 1]], "blue frog": [0.6, 0, 1, 1]},
    "for one of them": {"blue frog": [0.6, 0, 1, 1]},
    "no cell": {"red cat": [0.51, 0.51, 0.52, 0.52], "blue frog": [0.6, 0, 1, 1]},
    "a little outside": {"red cat": [-0.04, 0, 0.5, 1], "blue frog": [0.5, 0, 1, 1.04]},
}
WARNINGS = {"no cell": "covers no cell", "a little outside": "reaches outside 0..1 and is clipped"}
BAD_BOXES = {
    "empty": ([0.5, 0, 0.5, 1], "is empty: x0 must be smaller than x1"),
    "inverted": ([0, 0.9, 1, 0.1], "is inverted: y0 = 0.9 must be smaller than y1 = 0.1"),
    "out of range": ([0.5, 0, 1.5, 1], "lies outside 0..1"),
    "in pixels": ([0, 0, 256, 512], "For boxes in pixels give image_size"),
    "not a number": ([0, 0, float("nan"), 1], "must be 4 finite numbers"),
    "three numbers": ([0, 0, 1], "must be 4 numbers"),
}


@pytest.mark.parametrize("name", METHODS)
def test_odd_boxes(first_family, name):
    arguments = {"control": quick(name), "layout": [*ODD_BOXES.values()], "num_inference_steps": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = run(first_family, [PROMPT] * len(ODD_BOXES), **arguments).images
    assert [kind for kind, image in zip(ODD_BOXES, images, strict=True) if not torch.isfinite(image).all()] == []
    for kind, message in WARNINGS.items():
        if kind != "no cell" or method_classes()[name].needs_layout:
            assert any(message in str(warning.message) for warning in caught), kind


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", BAD_BOXES)
def test_bad_boxes_are_refused(first_family, name, kind):
    box, message = BAD_BOXES[kind]
    with pytest.raises(ValueError, match=f"the layout of 'cat': .*{message}"):
        run(first_family, control=quick(name), layout={"cat": box})


@pytest.mark.parametrize("name", METHODS)
def test_nan_in_the_maps_leaves_the_plain_image(first_family, name, monkeypatch):
    """The update is skipped, with a warning that names the step."""

    def spoilt(*args):
        return attention_probabilities(*args) * float("nan")

    monkeypatch.setattr("attncontrol.attention.capture.attention_probabilities", spoilt)
    plain = run(first_family, num_inference_steps=1).images
    with pytest.warns(RuntimeWarning, match="not finite at step 0 of 1"):
        output = run(first_family, control=quick(name), layout=layout_for(name), num_inference_steps=1)
    assert torch.equal(output.images, plain)
    assert not output.control.images[0].steps[0].moved


@pytest.mark.parametrize("name", METHODS)
def test_subjects_may_share_tokens(first_family, name):
    output = run(
        first_family, subjects=["red cat", ["red", "frog"]], control=quick(name), layout=layout_for(name, "auto")
    )
    assert torch.isfinite(output.images).all()
    assert any(step.moved for step in output.control.images[0].steps)
