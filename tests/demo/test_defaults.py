"""What a newcomer meets first succeeds: the page's first prompt, README's first call, and the default method."""

import re

import pytest
import torch

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from attncontrol import AttentionControlPipeline
from attncontrol.arguments import DEFAULT_CONTROL
from attncontrol.demo import examples
from attncontrol.evaluation.oracle import verdict
from tests.documents import text


@pytest.fixture(scope="module")
def emoji():
    return AttentionControlPipeline.from_pretrained("emoji")


def judged(pipe, prompt, control, seed):
    image = pipe(prompt, control=control, generator=torch.Generator().manual_seed(seed)).images[0]
    return verdict(prompt, image)


def test_the_default_prompt_fails_without_and_succeeds_with_control(emoji):
    first = examples.first()
    assert first["method"] == DEFAULT_CONTROL
    assert not judged(emoji, first["prompt"], None, first["seed"]).all_right
    assert judged(emoji, first["prompt"], DEFAULT_CONTROL, first["seed"]).all_right


def test_the_readme_begins_with_the_same_picture():
    page, first = text("README.md"), examples.first()
    assert f"manual_seed({first['seed']})" in page
    call = re.search(r'pipe\("(.+?)", control="(.+?)", generator=generator\)', page)
    assert call.groups() == (first["prompt"], first["method"])


@pytest.mark.slow
def test_the_readmes_first_command_succeeds_with_the_default_method(emoji):
    prompt = re.search(r'attncontrol compare "(.+?)" --output', text("README.md"))[1]
    assert not judged(emoji, prompt, None, 0).all_right
    assert judged(emoji, prompt, DEFAULT_CONTROL, 0).all_right
