"""Moves after the model's call: the guided pass is then the call of the conditional rows, and nothing else changes."""

import copy
import functools

import pytest
import torch

from attncontrol import AttentionControlPipeline, BestStart, Conform, attach
from attncontrol.families import family_of
from attncontrol.families.compiled import Answer, before_call
from attncontrol.guidance.guided_pass import GuidedPass
from tests import tiny
from tests.test_transformers import LAYOUT, METHODS, PROMPT, SLOW, controlled, method
from tests.tiny_transformers import CALLS, TRANSFORMERS

STEPS = 3
FAST = ("SD 3", "Z-Image")  # a batch of both, and lists of rows
FAMILIES = ["1.x", *(pytest.param(name, marks=() if name in FAST else SLOW) for name in TRANSFORMERS)]


@pytest.fixture
def unshared(monkeypatch):
    """Makes every guided pass one of its own."""
    return lambda: monkeypatch.setattr(GuidedPass, "is_call_of", lambda *_: False)


@functools.cache
def pipeline(family):
    if family in TRANSFORMERS:
        return controlled(family)
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, control, prompt=PROMPT, seed=0, **arguments):
    """A run, and how many rows its denoiser had in all its forwards."""
    family, rows, many = family_of(pipe), [], isinstance(prompt, list)
    forward = family.denoiser.forward

    @functools.wraps(forward)
    def counting(*args, **kwargs):
        rows.append(len(family.latents(family.bind(args, kwargs))))
        return forward(*args, **kwargs)

    call = {"num_inference_steps": STEPS, "height": 32, "width": 32, "output_type": "latent", "memory": "fast"}
    call |= CALLS.get(pipe.stock_name, {}) | arguments
    if getattr(control, "needs_layout", False):
        call["layout"] = LAYOUT
    generator = [torch.Generator().manual_seed(seed + i) for i in range(len(prompt) if many else 1)]
    family.denoiser.forward = counting
    try:
        return pipe(prompt, control=control, generator=generator, **call), sum(rows)
    finally:
        del family.denoiser.forward


def guided(output):
    return sum(step.moved for step in output.control.images[0].steps)


@pytest.mark.parametrize("name", METHODS)
def test_a_shared_pass_changes_no_bit_and_costs_no_forward(name, unshared):
    pipe, shared = pipeline("FLUX.1"), method(name, shared_pass=True)
    output, rows = draw(pipe, shared)
    unshared()
    expected, more = draw(pipe, shared)
    assert torch.equal(output.images, expected.images)
    assert guided(output) > 0 and rows == more - STEPS


@pytest.mark.parametrize("family", FAMILIES)
def test_other_rows_of_the_call_are_run_beside_the_pass(family, unshared):
    pipe, shared = pipeline(family), method("conform", shared_pass=True)
    output, rows = draw(pipe, shared)
    unshared()
    expected, more = draw(pipe, shared)
    torch.testing.assert_close(output.images, expected.images, rtol=1e-4, atol=1e-4)
    assert guided(output) > 0 and rows == draw(pipe, None)[1] < more


def test_moves_follow_the_call():
    """The first call sees the noise, as without control; its move is in the latents of the second."""
    pipe, seen = pipeline("FLUX.1"), []
    for control in (None, method("conform"), method("conform", shared_pass=True)):
        states = []

        def note(module, args, kwargs, states=states):
            states.append(kwargs["hidden_states"].detach().clone())

        handle = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
        draw(pipe, control, num_inference_steps=2)
        handle.remove()
        seen.append(states)
    plain, before, after = ((own[0], own[-1]) for own in seen)
    assert torch.equal(after[0], plain[0]) and not torch.equal(after[1], plain[1])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("family", ["1.x", "FLUX.1"])
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_chosen_noise_is_what_the_first_call_sees(family, is_shared, unshared):
    pipe, start = pipeline(family), BestStart(starts=4, ahead=(0.3,))
    if not is_shared:
        unshared()
    chosen, _ = draw(pipe, start + method("conform", shared_pass=True, relative_step=1e-12), seed=3)
    expected, _ = draw(pipe, start, seed=3)
    torch.testing.assert_close(chosen.images, expected.images, rtol=1e-4, atol=1e-4)
    drafts = chosen.control.images[0].drafts
    assert drafts == expected.control.images[0].drafts and drafts[0] > min(drafts)


@pytest.mark.filterwarnings("ignore:no subjects found")
@pytest.mark.parametrize(
    ("memory", "prompts"), [("fast", [PROMPT, "big and small"]), ("low", [PROMPT, "a dog and a crown"])]
)
def test_where_a_pass_is_not_the_call_the_call_is_made(memory, prompts, unshared):
    pipe, control = pipeline("FLUX.1"), method("conform", shared_pass=True)
    together, rows = draw(pipe, control, prompts, memory=memory)
    assert rows > STEPS * len(prompts) and guided(together) > 0
    unshared()
    expected, _ = draw(pipe, control, prompts, memory=memory)
    assert torch.equal(together.images, expected.images)


def test_in_a_sum_all_must_have_it():
    pipe, after, before = pipeline("FLUX.1"), method("conform", shared_pass=True), method("syngen")
    found, rows = draw(pipe, after + before)
    expected, same = draw(pipe, method("conform") + before)
    assert torch.equal(found.images, expected.images) and rows == same == 2 * STEPS
    assert draw(pipe, after + method("syngen", shared_pass=True))[1] == STEPS


def test_published_code_says_when_it_moves():
    pipe = pipeline("1.x")
    found = [
        draw(pipe, Conform(variant="reference", refine_at=(), shared_pass=shared))[0].images
        for shared in (False, True)
    ]
    assert torch.equal(*found)


def test_the_forward_is_as_it_was_after_the_last_block_whichever_ends_first():
    first, second = (AttentionControlPipeline.from_pipe(pipeline("FLUX.1")) for _ in range(2))
    second.scheduler = copy.deepcopy(first.scheduler)
    module, control = first.transformer, method("conform", shared_pass=True)
    own = vars(module).get("forward")
    blocks = [attach(pipe, control, prompt=PROMPT) for pipe in (first, second)]
    with pytest.warns(UserWarning, match="no call"):
        for block in blocks:
            block.__enter__()
        between = vars(module)["forward"]
        blocks[0].__exit__(None, None, None)
        assert vars(module)["forward"] is between is not own
        blocks[1].__exit__(None, None, None)
    assert vars(module).get("forward") is own and not module._forward_pre_hooks


def test_an_answer_that_was_not_fetched_is_not_given_to_the_next_call():
    module, asked = torch.nn.Linear(1, 1), []

    def hook(module, args, kwargs):
        asked.append(1)
        return Answer("known") if len(asked) == 1 else (args, kwargs)

    def failing(module, args):
        raise KeyError("another hook's")

    one = torch.ones(1, 1)
    remove = before_call(module, hook)
    later = module.register_forward_pre_hook(failing)
    with pytest.raises(KeyError):
        module(one)
    later.remove()
    assert isinstance(module(one), torch.Tensor) and len(asked) == 2
    remove()
