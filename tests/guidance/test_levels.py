"""Steps beside the scheduler: ahead as its own are, and back with the noise that lies between."""

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.guidance.levels import Level, longer_step, noised_back, predicts

SHARES = st.floats(0.01, 0.99)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_longer_step_is_the_schedulers_own(kind):
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    latents, output = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    now, then = Level.of(scheduler, 0), Level.of(scheduler, 0.2)
    expected = scheduler.step(output, scheduler.timesteps[0], latents).prev_sample
    assert torch.allclose(longer_step(latents, output, now, then, predicts(scheduler)), expected, atol=1e-4)


def test_a_longer_step_of_flow_matching_is_the_schedulers_own():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    latents, output = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    now, then = Level.of(scheduler, 0), Level.of(scheduler, 0.2)
    assert now.signal == 0 < then.signal == 1 - then.noise
    expected = scheduler.step(output, scheduler.timesteps[0], latents).prev_sample
    assert torch.allclose(longer_step(latents, output, now, then, predicts(scheduler)), expected, atol=1e-5)


@given(now=SHARES, back=SHARES)
def test_noise_added_back_gives_the_level_its_shares(now, back):
    """Picture and noise, each one where the other is none, come out in the shares of the earlier level."""
    now, back = (Level(0, share, (1 - share**2) ** 0.5) for share in (max(now, back), min(now, back)))
    one, none = torch.ones(()), torch.zeros(())
    picture, old, new = (
        noised_back(latents, now, back, noise).item()
        for latents, noise in ((now.signal * one, none), (now.noise * one, none), (none, one))
    )
    assert picture == pytest.approx(back.signal, abs=1e-5)
    assert old**2 + new**2 == pytest.approx(back.noise**2, abs=1e-5)
