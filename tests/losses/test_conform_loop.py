"""CONFORM's published pipeline, run end to end on a tiny UNet, against the engine."""

from dataclasses import dataclass

import diffusers
import pytest
import torch

from attncontrol import Conform, attach
from tests import tiny
from tests.golden import golden_cases
from tests.losses.test_conform import PUBLISHED_NAMES


def pipeline(case):
    inputs = case["inputs"]
    unet = diffusers.UNet2DConditionModel(**inputs["unet_config"]).eval()
    unet.load_state_dict({name[5:]: case.tensor(name) for name in case.arrays if name.startswith("unet.")})
    scheduler = getattr(diffusers, inputs["scheduler"])(**inputs["scheduler_config"])
    return tiny.stable_diffusion(unet=unet, scheduler=scheduler)


def method(case, count):
    kwargs = case["kwargs"]
    return Conform(
        variant="reference",
        stop=min(kwargs["max_iter_to_alter"] / count, 1.0),
        step_size=kwargs["scale_factor"],
        resolution=tuple(kwargs["attn_res"]),
        refine_at=tuple(kwargs["iterative_refinement_steps"]),
        refinement_steps=kwargs["refinement_steps"],
        previous_maps=kwargs["add_previous_attention_maps"],
        anchor_step=kwargs["previous_attention_map_anchor_step"],
        **{name: kwargs[published] for published, name in PUBLISHED_NAMES.items()},
    )


@dataclass
class Run:
    """One run: latents that go into the guidance pass, after each step [steps, 4, 16, 16], and all losses."""

    guided: torch.Tensor
    after: torch.Tensor
    losses: list[list[float]]


def run(case, noise_seed=None) -> Run:
    """Samples under control, from the recorded noise or from one that differs in the last bits."""
    inputs, pipe = case["inputs"], pipeline(case)
    guided, after = [], []

    def record_input(module, args, kwargs):
        sample = args[0] if args else kwargs["sample"]
        if len(sample) == 2:  # the pass of classifier-free guidance
            guided.append(sample[0].clone())

    def record_latents(pipe, step, timestep, kwargs):
        after.append(kwargs["latents"][0].clone())
        return kwargs

    latents = case.tensor("latents_init")
    if noise_seed is not None:
        latents *= 1 + 1e-7 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(noise_seed))
    with attach(pipe, method(case, len(case.arrays["timesteps"])), subjects=inputs["token_groups"]) as control:
        handle = pipe.unet.register_forward_pre_hook(record_input, with_kwargs=True)
        pipe(
            latents=latents,
            prompt_embeds=case.tensor("prompt_embeds"),
            negative_prompt_embeds=case.tensor("negative_prompt_embeds"),
            num_inference_steps=inputs["num_inference_steps"],
            guidance_scale=inputs["guidance_scale"],
            output_type="latent",
            callback_on_step_end=record_latents,
        )
        handle.remove()
    losses = [step.losses["conform"] if step.moved else [] for step in control.record.images[0].steps]
    return Run(torch.stack(guided), torch.stack(after), losses)


def published_losses(case, step, count):
    """The first losses of a step; the published code evaluates once more before it refines, and once after it."""
    values = case.tensor("loss_value")[case.tensor("loss_step") == step].tolist()
    return values[len(values) > 1 :][:count]


@pytest.mark.parametrize("case", golden_cases("conform_loop"))
def test_published_loop(case):
    """Every step's move multiplies rounding errors, so the tolerance grows with what the last bits of the noise do."""
    found, *others = run(case), *(run(case, seed) for seed in range(4))
    for name, expected in (("guided", "latents_guided"), ("after", "latents_after_step")):
        latents = getattr(found, name)
        spread = torch.stack([getattr(other, name) - latents for other in others]).abs().amax((0, 2, 3, 4))
        difference = (latents - case.tensor(expected)).abs().amax((1, 2, 3))
        assert (difference <= 2e-4 + 4 * spread).all(), (difference, spread)
    for step, losses in enumerate(found.losses):
        expected = published_losses(case, step, len(losses))
        spread = max(
            (abs(a - b) for other in others for a, b in zip(losses, other.losses[step], strict=True)), default=0
        )
        assert losses == pytest.approx(expected, abs=2e-5 + 4 * spread)
    assert any(found.losses)
