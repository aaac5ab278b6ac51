"""What a newcomer meets first succeeds: the page's first prompt, README's first call, and the default method."""

import functools
import re

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from attncontrol import AttentionControlPipeline
from attncontrol.arguments import DEFAULT_CONTROL
from attncontrol.demo import examples
from attncontrol.demo.compare_tab import SEEDS
from attncontrol.evaluation.oracle import verdict
from attncontrol.images.drawing import Request, draw
from attncontrol.images.sampling import Sampling
from attncontrol.losses.combining import resolve_control
from attncontrol.models import BUNDLED, DEFAULT_MODEL, default_guidance_scale, default_steps
from tests.documents import text


@functools.cache
def pipe(model):
    return AttentionControlPipeline.from_pretrained(model)


def judged(model, prompt, control, seed):
    """The oracle's verdict on the picture that programs draw by default."""
    request = Request(model, prompt, Sampling(default_steps(model), default_guidance_scale(model)))
    methods = resolve_control(control, pipe(model).tuned_settings)
    return verdict(prompt, draw(pipe(model), request, methods, seed, lambda _: None).image)


@pytest.mark.parametrize("model", ["emoji", pytest.param("emoji-flux", marks=pytest.mark.slow)])
def test_the_page_opens_with_a_prompt_that_fails_without_and_succeeds_with_control(model):
    first = examples.opening(model)
    assert first["method"] == DEFAULT_CONTROL and str(first["seed"]) in SEEDS.split(", ")
    assert not judged(model, first["prompt"], None, first["seed"]).all_right
    assert judged(model, first["prompt"], DEFAULT_CONTROL, first["seed"]).all_right


@pytest.mark.slow
@pytest.mark.parametrize("model", BUNDLED)
def test_the_first_comparison_succeeds_on_all_its_seeds(model):
    prompt = examples.opening(model)["prompt"]
    assert all(judged(model, prompt, DEFAULT_CONTROL, int(seed)).all_right for seed in SEEDS.split(", "))


def test_the_readme_begins_with_the_same_picture():
    page, first = text("README.md"), examples.opening("emoji")
    assert f"manual_seed({first['seed']})" in page
    call = re.search(r'pipe\("(.+?)", control="(.+?)", generator=generator\)', page)
    assert call.groups() == (first["prompt"], first["method"])


@pytest.mark.slow
def test_the_readmes_first_command_succeeds_with_the_default_method():
    (prompt,) = re.findall(r'attncontrol compare "([^"]+)" --output', text("README.md"))
    assert not judged(DEFAULT_MODEL, prompt, None, 0).all_right
    assert judged(DEFAULT_MODEL, prompt, DEFAULT_CONTROL, 0).all_right
