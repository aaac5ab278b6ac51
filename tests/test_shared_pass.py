"""Moves after the model's call: the guided pass is then that call where its rows are the images', and nothing else."""

import pytest
import torch

from attncontrol import BestStart, Conform, attach
from attncontrol.families import family_of
from attncontrol.guidance.guided_pass import GuidedPass
from tests.test_transformers import LAYOUT, METHODS, PROMPT, controlled, method

STEPS = 3


@pytest.fixture
def unshared(monkeypatch):
    """Makes every guided pass one of its own."""
    return lambda: monkeypatch.setattr(GuidedPass, "is_call_of", lambda *_: False)


def draw(pipe, control, prompt=PROMPT, **arguments):
    """A run, and how often the denoiser ran to its end."""
    ends, many = [], isinstance(prompt, list)
    layout = LAYOUT if getattr(control, "needs_layout", False) else None
    handle = family_of(pipe).denoiser.proj_out.register_forward_hook(lambda *_: ends.append(1))
    generator = [torch.Generator().manual_seed(i) for i in range(len(prompt) if many else 1)]
    defaults = {"num_inference_steps": STEPS, "height": 32, "width": 32, "output_type": "latent", "memory": "fast"}
    try:
        output = pipe(prompt, control=control, layout=layout, generator=generator, **{**defaults, **arguments})
    finally:
        handle.remove()
    return output, len(ends)


@pytest.mark.parametrize("name", METHODS)
def test_a_shared_pass_changes_no_bit(name, unshared):
    pipe, shared = controlled("FLUX.1"), method(name, shared_pass=True)
    output, ends = draw(pipe, shared)
    moved = [step.moved for step in output.control.images[0].steps]
    unshared()
    expected, _ = draw(pipe, shared)
    assert torch.equal(output.images, expected.images)
    assert any(moved) and ends == STEPS


def test_moves_follow_the_call():
    """The first call sees the noise, as without control; its move is in the latents of the second."""
    pipe, seen = controlled("FLUX.1"), []
    for control in (None, method("conform"), method("conform", shared_pass=True)):
        states = []

        def note(module, args, kwargs, states=states):
            states.append(kwargs["hidden_states"].detach().clone())

        handle = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
        draw(pipe, control, num_inference_steps=2)
        handle.remove()
        seen.append(states)
    plain, before, after = ([*own[:1], own[-1]] for own in seen)
    assert torch.equal(after[0], plain[0]) and not torch.equal(after[1], plain[1])
    assert len(seen[1]) == 4  # two passes and two calls
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("family", ["FLUX.1", "SD 3"])
def test_a_chosen_noise_is_what_the_first_call_sees(family):
    pipe, start = controlled(family), BestStart(starts=4, ahead=(0.3,))
    still = method("conform", shared_pass=True, relative_step=1e-12)
    chosen, _ = draw(pipe, start + still)
    expected, _ = draw(pipe, start)
    torch.testing.assert_close(chosen.images, expected.images)
    assert chosen.control.images[0].drafts == expected.control.images[0].drafts


@pytest.mark.filterwarnings("ignore:no subjects found")
@pytest.mark.parametrize("memory", ["fast", "low"])
def test_where_a_pass_is_not_the_call_the_call_is_made(memory, unshared):
    pipe, control = controlled("FLUX.1"), method("conform", shared_pass=True)
    prompts = [PROMPT, "big and small"] if memory == "fast" else [PROMPT, "a dog and a crown"]
    together, ends = draw(pipe, control, prompts, memory=memory)
    assert ends == STEPS and any(step.moved for step in together.control.images[0].steps)
    unshared()
    expected, _ = draw(pipe, control, prompts, memory=memory)
    assert torch.equal(together.images, expected.images)


def test_with_classifier_free_guidance_the_call_is_made_after_the_pass():
    pipe, control = controlled("SD 3"), method("conform", shared_pass=True)
    output, ends = draw(pipe, control, guidance_scale=4.0)
    before, _ = draw(pipe, method("conform"), guidance_scale=4.0)
    assert ends == STEPS and not torch.equal(output.images, before.images)


def test_it_is_refused_where_published_code_says_when_to_move():
    with pytest.raises(ValueError, match="conform: variant='reference' moves when its published code does"):
        Conform(variant="reference", shared_pass=True)


def test_the_forward_is_as_it_was_after_a_block():
    pipe = controlled("FLUX.1")
    own = vars(pipe.transformer).get("forward")
    with pytest.warns(UserWarning, match="no call"), attach(pipe, method("conform", shared_pass=True), prompt=PROMPT):
        assert vars(pipe.transformer)["forward"] is not own
    assert vars(pipe.transformer).get("forward") is own
