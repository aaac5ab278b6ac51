"""ReGround's wiring against vectors made of the published formula, on a small UNet with gates."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from attncontrol.families.gligen import GroundedUNetFamily
from attncontrol.grounding.rewiring import Rewiring
from tests.golden import golden_cases


def call_of(case):
    unet = UNet2DConditionModel(**case["inputs"]["unet_config"]).eval()
    weights = {name.removeprefix("unet."): case.tensor(name) for name in case.arrays if name.startswith("unet.")}
    unet.load_state_dict(weights)
    call = {
        "sample": case.tensor("sample", requires_grad=True),
        "timestep": case["inputs"]["timestep"],
        "encoder_hidden_states": case.tensor("encoder_hidden_states"),
        "cross_attention_kwargs": {
            "gligen": {name: case.tensor(name) for name in ("boxes", "positive_embeddings", "masks")}
        },
    }
    return GroundedUNetFamily(SimpleNamespace(unet=unet)), call


def close(found, case, name):
    torch.testing.assert_close(found, case.tensor(name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", golden_cases("reground"))
def test_published_wirings(case):
    family, call = call_of(case)
    rewiring = Rewiring(family, True)
    gligen = family.denoiser(**call).sample
    close(gligen, case, "out_gligen")
    rewiring.install()
    try:
        close(family.denoiser(**call).sample, case, "out_reground")
    finally:
        rewiring.remove()
    assert torch.equal(family.denoiser(**call).sample, gligen), "removed hooks leave nothing"


@pytest.mark.parametrize("case", golden_cases("reground"))
def test_the_gradient_of_the_rewired_unet(case):
    family, call = call_of(case)
    rewiring = Rewiring(family, True)
    rewiring.install()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            family.denoiser.enable_gradient_checkpointing()
        (gradient,) = torch.autograd.grad(family.denoiser(**call).sample.sum(), call["sample"])
        gradients.append(gradient)
    rewiring.remove()
    for gradient in gradients:
        torch.testing.assert_close(gradient, case.tensor("grad_sample_reground"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", golden_cases("reground"))
def test_a_rewired_block_keeps_nothing_for_a_call_without_boxes(case):
    family, call = call_of(case)
    plain = {name: value for name, value in call.items() if name != "cross_attention_kwargs"}
    plain["sample"] = -plain["sample"]
    wanted = family.denoiser(**plain).sample
    rewiring = Rewiring(family, True)
    rewiring.install()
    family.denoiser(**call)
    assert torch.equal(family.denoiser(**plain).sample, wanted)
    rewiring.remove()


@pytest.mark.parametrize("rewired", [True, False])
@pytest.mark.parametrize("case", golden_cases("reground"))
def test_closed_gates_make_it_the_plain_unet_in_either_wiring(case, rewired):
    family, call = call_of(case)
    rewiring = Rewiring(family, rewired)
    rewiring.install()
    for block in family.blocks().values():
        block.fuser.enabled = False
    close(family.denoiser(**call).sample, case, "out_plain")
    del call["cross_attention_kwargs"]
    close(family.denoiser(**call).sample, case, "out_plain")
    rewiring.remove()
