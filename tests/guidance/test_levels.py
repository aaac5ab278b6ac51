"""Steps beside the scheduler are as its own."""

import diffusers
import pytest
import torch

from attncontrol.guidance.levels import Level, longer_step, predicts


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
