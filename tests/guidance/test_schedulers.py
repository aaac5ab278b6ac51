"""What guidance knows of schedulers, checked against what the schedulers do with a moved sample."""

import inspect

import pytest
import torch

from attncontrol.guidance.schedulers import keep_given_sample, starting_calls
from tests.stock.supported import CORRECTOR, SCHEDULERS

STEPS = 7


def sampled(scheduler, moved_call=None, keep=True):
    """The end of sampling with given random model outputs, the sample moved by 1 before one of the model calls."""
    scheduler.set_timesteps(STEPS)
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 4, 8, 8, generator=random) * scheduler.init_noise_sigma
    outputs = torch.randn(len(scheduler.timesteps), *sample.shape, generator=random)
    noise = {"generator": random} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for call, (timestep, output) in enumerate(zip(scheduler.timesteps, outputs, strict=True)):
        scheduler.scale_model_input(sample, timestep)
        if call == moved_call:
            sample = sample + 1
            if keep:
                keep_given_sample(scheduler)
        sample = scheduler.step(output, timestep, sample, **noise, return_dict=False)[0]
    return sample


def lasting_share(scheduler, call, keep=True):
    """How much of a move is left at the end, as a share of what an exact solver keeps of it."""
    moved = (sampled(scheduler, call, keep) - sampled(scheduler)).mean()
    in_sigmas = scheduler.init_noise_sigma > 1
    exact = 1 if in_sigmas else 1 / scheduler.alphas_cumprod[int(scheduler.timesteps[call])].sqrt()
    return float(moved / exact)


@pytest.mark.parametrize("case", SCHEDULERS, ids=lambda case: case.name)
def test_a_move_lasts_in_starting_calls_and_no_other(case):
    scheduler = case.build().scheduler
    scheduler.set_timesteps(STEPS)
    starts = starting_calls(scheduler, len(scheduler.timesteps))
    shares = [lasting_share(scheduler, call) for call in range(len(starts))]
    if case.name == "PNDMScheduler":
        assert starts[1] and shares.pop(starts.pop(1)) is not None, "its second call counts as a step"
    assert shares[0] == pytest.approx(1, abs=1e-3)
    for start, share in zip(starts, shares, strict=True):
        assert (0.5 < share < 1.7) if start else abs(share) < 1e-3


def test_correctors_would_take_moves_back():
    case = next(case for case in SCHEDULERS if case.note == CORRECTOR)
    shares = [lasting_share(case.build().scheduler, call=3, keep=keep) for keep in (False, True)]
    assert shares[0] < 0.5 < 1 < shares[1]
