"""`attach` with the stock pipelines, schedulers and helpers of diffusers: every row of the table in tests/stock.py."""

import pytest
import torch
from diffusers import DDIMScheduler

from attncontrol import AttendAndExcite, attach
from tests import stock, tiny

CONTROL = AttendAndExcite(thresholds={0: 0.9}, max_refinement_steps=1, step_size=100)


def run(pipe, case, **arguments):
    call = {"num_inference_steps": 4, "output_type": "latent", **case.call, **arguments}
    return pipe(case.prompt, generator=torch.Generator().manual_seed(0), **call).images


@pytest.mark.parametrize("case", stock.CASES, ids=lambda case: case.name)
def test_control_acts_and_leaves_no_trace(case):
    pipe = case.build()
    plain = run(pipe, case)
    before = tiny.state(pipe)
    with attach(pipe, 0 * CONTROL, prompt=case.prompt, subjects=case.subjects):
        assert torch.equal(run(pipe, case), plain), "weight 0 changes nothing"
    with attach(pipe, CONTROL, prompt=case.prompt, subjects=case.subjects) as control:
        controlled = run(pipe, case)
    assert tiny.state(pipe) == before
    assert torch.equal(run(pipe, case), plain)
    steps = control.record.images[0].steps
    assert steps[0].moved and steps[0].refinements == 1
    losses = steps[0].losses["attend-and-excite"]
    assert losses[1] < losses[0]
    assert torch.isfinite(controlled).all()
    assert (controlled - plain).norm() > 1e-2 * plain.norm()
