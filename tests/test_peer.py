"""Attend-and-Excite end to end against the pipeline that diffusers still carries."""

import warnings

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionAttendAndExcitePipeline

from attncontrol import AttendAndExcite, AttentionControlPipeline
from tests import tiny

SCHEDULERS = {
    "ddim": lambda: tiny.scheduler(DDIMScheduler),
    "pndm": lambda: tiny.scheduler(PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
}
ONE, TWO = ["a cat and a frog"], ["a cat and a frog", "a red car and a small dog"]
STEPS = 4
SLOW = ("stops early", "pndm", "hits the cap")  # the others have their schedulers, batches and full refinements too
CASES = {  # scheduler, prompts, tokens, thresholds, guided iterations, expected refinements of the first image
    "one token, no refinement": ("ddim", ONE, [[2]], {}, 3, [0, 0, 0, 0]),
    "stops early": ("ddim", ONE, [[2, 5]], {0: 0.0167, 2: 0.0163}, 3, None),
    "hits the cap": ("ddim", ONE, [[2, 3, 5]], {0: 0.9}, 2, [20, 0, 0, 0]),
    "after the last update": ("ddim", ONE, [[1, 2, 4, 5]], {2: 0.9}, 1, [0, 0, 20, 0]),
    "pndm": ("pndm", ONE, [[2, 5]], {2: 0.9}, 3, [0, 0, 20, 0, 0]),
    "pndm, two prompts": ("pndm", TWO, [[2, 5], [3, 7]], {1: 0.9}, 4, [0, 20, 0, 0, 0]),
    "ddim, two prompts": ("ddim", TWO, [[2, 5], [3]], {0: 0.0167}, 4, None),
}


@pytest.fixture(scope="module")
def peer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionAttendAndExcitePipeline(**tiny.components(), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES])
def test_latents_equal_the_peers(peer, case):
    name, prompts, tokens, thresholds, iterations, refinements = CASES[case]
    common = {"num_inference_steps": STEPS, "height": 32, "width": 32, "output_type": "latent"}
    peer.scheduler = SCHEDULERS[name]()
    expected = peer(
        prompts,
        token_indices=tokens,
        thresholds=thresholds,
        max_iter_to_alter=iterations,
        scale_factor=300,
        attn_res=(16, 16),
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
        **common,
    ).images

    ours = AttentionControlPipeline.from_pipe(peer_as_stock(peer))
    ours.set_progress_bar_config(disable=True)
    count = STEPS if name == "ddim" else STEPS + 1
    control = AttendAndExcite(
        variant="reference", stop=iterations / count, step_size=300, thresholds=thresholds, resolution=16
    )

    def run(control):
        generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        return ours(prompts, control=control, subjects=tokens, generator=generators, **common)

    output = run(control)
    scale = expected.abs().max()
    assert (output.images - expected).abs().max() <= 1e-4 * scale
    assert (run(None).images - expected).abs().max() > 1e-3 * scale, "guidance did nothing"
    counts = [step.refinements for step in output.control.images[0].steps]
    if refinements is None:
        assert 0 < counts[0] < 20, "the case is meant to stop early"
    else:
        assert counts == refinements


def peer_as_stock(peer):
    """The stock pipeline on the peer's components; the peer leaves the scheduler's clip_sample as it was."""
    return tiny.stable_diffusion(**peer.components)
