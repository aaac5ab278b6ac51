"""What users may give as a grounding, and what is refused."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol import AttentionControlPipeline, Grounding, attach
from attncontrol.families import family_of
from attncontrol.grounding import read_grounding
from attncontrol.guidance.cost import load_weightless
from tests import tiny
from tests.grounding import gated
from tests.grounding.gated import LAYOUT, PROMPT, draw


@pytest.fixture(scope="module")
def pipe():
    return gated.controlled()


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        (None, None),
        (False, None),
        (True, Grounding()),
        ("gligen", Grounding()),
        ("reground", Grounding(rewired=True)),
        ({"beta": 0.5, "rewired": "up"}, Grounding(beta=0.5, rewired="up")),
    ],
)
def test_forms(given_, wanted):
    assert read_grounding(given_) == wanted


def test_gates_are_open_as_long_as_published():
    assert (Grounding().open_share, Grounding(rewired=True).open_share, Grounding(beta=0.0).open_share) == (0.3, 1, 0)


@given(
    st.floats(0, 1),
    st.sampled_from([True, False, "up", "down.1, mid"]),
    st.dictionaries(st.just("cat"), st.just("a cat")),
)
def test_json_reads_back(beta, rewired, phrases):
    grounding = Grounding(beta=beta, rewired=rewired, phrases=phrases)
    assert read_grounding(json.loads(json.dumps(grounding.to_json()))) == grounding


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("glygen", "unknown grounding 'glygen', did you mean 'gligen'"),
        (3, "must be True, 'gligen', 'reground' or"),
        ({"betas": 1}, "no setting 'betas', did you mean 'beta'"),
        ({"beta": 1.5}, "beta must be a fraction of sampling from 0 to 1, got 1.5"),
        ({"beta": True}, "beta must be"),
        ({"beta": float("nan")}, "beta must be"),
        ({"rewired": "upper"}, "layers cannot be 'upper'"),
        ({"rewired": 2}, "rewired must be True, False or blocks"),
        ({"phrases": ["cat"]}, "phrases must be a dict"),
        ({"phrases": {"cat": " "}}, "the phrase of 'cat' must be words"),
        ({"phrases": {"cta": "a cat"}}, "phrases names 'cta', which is no entity of the prompt, did you mean 'cat'"),
        ({"phrases": {"cat": "very " * 100 + "big cat"}}, "has .* tokens; 77 are the most"),
    ],
)
def test_bad_groundings(pipe, value, message):
    with pytest.raises(ValueError, match=message):
        draw(pipe, layout=LAYOUT, grounding=value)


def test_a_phrase_may_be_given_for_an_entity_or_its_noun(pipe):
    def told(phrases):
        return draw(pipe, "a red cat", layout={"cat": [0, 0, 0.5, 1]}, grounding=Grounding(phrases=phrases)).sum()

    assert told({}) == told({"red cat": "red cat"}) != told({"cat": "a cat"}) == told({"Red Cat": "a cat"})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (None, "grounding needs a layout"),
        ({"cat": [[i / 40, 0, (i + 1) / 40, 1] for i in range(31)]}, "31 boxes; the UNet has tokens for 30"),
    ],
)
def test_bad_layouts(pipe, layout, message):
    with pytest.raises(ValueError, match=message):
        draw(pipe, layout=layout, grounding=True)


def test_one_prompt_of_a_batch_without_boxes_is_refused(pipe):
    with pytest.raises(ValueError, match="grounding needs a layout"):
        draw(pipe, [PROMPT, "a lion"], [0, 1], layout=[LAYOUT, None], grounding=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (tiny.stable_diffusion, "this StableDiffusionPipeline has no gates.*masterful/gligen-1-4-generation-text-box"),
        (tiny.stable_diffusion_xl, "StableDiffusionXLPipeline has no gates"),
        (
            lambda: tiny.stable_diffusion(unet=tiny.unet(attention_type="gated-text-image")),
            "gates for phrases with pictures",
        ),
        (lambda: tiny.stable_diffusion(unet=gated.unet(), text_encoder=None), "no tokenizer and text encoder"),
    ],
)
def test_pipelines_without_gates_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        attach(build(), None, prompt=PROMPT, layout=LAYOUT, grounding=True)


def test_blocks_of_another_norm_cannot_be_rewired(pipe):
    block = pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    block.norm_type = "ada_norm"
    try:
        with pytest.raises(ValueError, match="blocks with the norm 'ada_norm' cannot be rewired"):
            draw(pipe, layout=LAYOUT, grounding="reground")
    finally:
        block.norm_type = "layer_norm"


def test_a_gligen_checkpoint_loads_and_is_saved_as_stable_diffusion(tmp_path):
    stock = gated.gligen()
    stock.save_pretrained(tmp_path / "gligen")
    assert type(load_weightless(str(tmp_path / "gligen"), torch.float32)[0]).__name__ == "GroundedUNetFamily"
    pipe = AttentionControlPipeline.from_pretrained(tmp_path / "gligen")
    pipe.set_progress_bar_config(disable=True)
    assert type(family_of(pipe)).__name__ == "GatedUNetFamily"
    found, wanted = (draw(p, layout=LAYOUT, grounding=True, num_inference_steps=1) for p in (pipe, gated.controlled()))
    assert torch.equal(found, wanted)
    pipe.save_pretrained(tmp_path / "saved")
    assert (
        json.loads((tmp_path / "saved" / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    )


def test_an_inpainting_checkpoint_is_refused_with_what_to_do(tmp_path):
    gated.gligen(unet=gated.unet(9)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"takes 9 channels, 4 of them latents.*gligen_inpaint_image"):
        AttentionControlPipeline.from_pretrained(tmp_path)
