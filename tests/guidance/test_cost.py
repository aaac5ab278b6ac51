"""What guidance costs, counted before a run, against what a run does."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attncontrol import AttendAndExcite, AttentionControlPipeline, attach, create_method, method_classes
from attncontrol.families import family_of
from attncontrol.guidance import cost
from attncontrol.guidance.guided_pass import GuidedPass
from tests import tiny

PROMPT = "a red cat and a blue frog"
LAYOUT = {"red cat": [0.0, 0.0, 0.5, 1.0], "blue frog": [0.5, 0.0, 1.0, 1.0]}
CALL = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}
SMALL = {**CALL, "height": 16, "width": 16}


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.stable_diffusion_xl, tiny.refiner])
def test_the_count_is_that_of_the_real_model(make):
    """Products of matrices and convolutions are equal; attention is counted as fused, with its five products."""
    pipe = make()
    family = family_of(pipe)
    pipe.unet.set_default_attn_processor()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        pipe.unet(**family.example_call(2, (16, 16)))
    assert cost.plain_cost(family, (16, 16)).operations == counter.get_total_flops()


def test_a_guided_pass_costs_less_with_fewer_layers_and_low_memory_trades_time():
    unet = tiny.xl_unet(block_out_channels=(32, 64), transformer_layers_per_block=(1, 6), sample_size=32)
    family = family_of(tiny.stable_diffusion_xl(unet=unet))
    chosen = {
        layers: AttendAndExcite(layers=layers).select_layers(family.layers((64, 64)))
        for layers in ("down", "down,mid")
    }
    down, more = (cost.guided_cost(family, (64, 64), layers) for layers in chosen.values())
    low = cost.guided_cost(family, (64, 64), chosen["down"], low_memory=True)
    assert down.operations < more.operations and down.peak_bytes < more.peak_bytes
    assert low.operations > down.operations and low.peak_bytes < down.peak_bytes


def test_fast_memory_is_about_what_the_backward_pass_keeps():
    """What autograd packs away on a CPU is a lower bound of the count, and most of it."""
    pipe = tiny.stable_diffusion(unet=tiny.unet(block_out_channels=(32, 64), attention_head_dim=8))
    pipe._guidance_scale = 1.0
    family = family_of(pipe)
    layers = AttendAndExcite().select_layers(family.layers((32, 32)))
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in pipe.unet.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pass_ = GuidedPass(family, family.example_call(1, (32, 32)), layers)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), pass_.run(pass_.start, [0]):
        saved = sum(size for pointer, size in kept.items() if pointer not in weights)
    counted = cost.guided_cost(family, (32, 32), layers).peak_bytes
    assert saved <= counted <= 2 * saved


@pytest.mark.parametrize("low_memory", [False, True])
def test_maps_of_pixels_by_pixels_are_not_kept(low_memory):
    """Neither by the graph nor by the maps; and their gradient is that of maps which are."""
    pipe = tiny.stable_diffusion()
    pipe._guidance_scale = 1.0
    family = family_of(pipe)
    layers = [layer for layer in family.layers((16, 16)) if not layer.is_cross and layer.size == (16, 16)]
    call = {**family.example_call(1, (16, 16)), "timestep": torch.tensor(500)}
    call["sample"].normal_(generator=torch.Generator().manual_seed(0))
    call["encoder_hidden_states"].zero_()
    pass_ = GuidedPass(family, call, layers, low_memory)
    kept, gradients = set(), []

    def pack(tensor):
        kept.add(tuple(tensor.shape[-2:]))
        return tensor

    def spread(probabilities, images=None):
        return (probabilities**2).sum()[None]

    for deferred in (True, False):
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor) if deferred else nullcontext(),
            pass_.run(pass_.start, [0]) as (leaf, maps),
        ):
            own = maps.self_attention()
            losses = [m.reduce(spread) if deferred else spread(m.probabilities) for m in own]
            gradients.append(torch.autograd.grad(torch.stack(losses).sum(), leaf)[0])
    assert own[0].probabilities.shape == (1, 4, 256, 256)
    assert kept and (256, 256) not in kept
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0].abs().max() > 1e-4


@pytest.fixture(scope="module")
def one_level():
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion(unet=tiny.unet(**tiny.ONE_LEVEL)))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", method_classes())
def test_guided_passes_are_those_of_a_run(name, one_level):
    """Thresholds out of reach make a run refine, and draw, as much as it may; without them it does not refine."""
    known = method_classes()[name]().settings()
    quick = {"step_size": 1.0, "max_refinement_steps": 2, "refinement_steps": 2, "tries": 2}
    hard = {
        "thresholds": {0: 0.999999, 0.25: 0.999999},
        "threshold": 0.0,
        "satisfied": 2.0,
        "enough": 0 if name == "conform" else -100,
    }
    easy = {"thresholds": {}, "threshold": 1.0, "satisfied": 0.0, "enough": 100}
    if name == "a-star":  # its threshold is another one
        hard, easy = {}, {}
    found = []
    for extreme in (easy, hard):
        settings = {key: value for key, value in {**quick, **extreme}.items() if key in known}
        method = create_method(name, **settings)
        forwards = []

        def note(module, args, kwargs, forwards=forwards):
            forwards.append(torch.is_grad_enabled())

        handle = one_level.unet.register_forward_pre_hook(note, with_kwargs=True)
        layout = LAYOUT if method.needs_layout else None
        try:
            one_level(PROMPT, control=method, layout=layout, generator=torch.Generator().manual_seed(0), **SMALL)
        finally:
            handle.remove()
        runs = zip(method.pictures, cost.guided_passes(method, 4), strict=True)
        found.append((sum(forwards), *(pictures * sum(passes) for pictures, passes in runs)))
    assert found[0][0] == found[0][1], "as few as counted"
    assert found[1][0] == found[1][2], "as many as counted"


@pytest.mark.parametrize(("free", "low"), [(2**40, False), (2**10, True), (None, False)])
def test_memory_is_chosen_by_what_is_free(monkeypatch, free, low):
    monkeypatch.setattr(cost, "free_bytes", lambda device: free)
    pipe, modes = tiny.stable_diffusion(), set()

    def note(module, args, kwargs):
        if torch.is_grad_enabled():
            modes.add(module.is_gradient_checkpointing)

    pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    images = []
    for memory in ("auto", "fast"):
        with attach(pipe, AttendAndExcite(thresholds={}), prompt=PROMPT, memory=memory):
            images.append(pipe(PROMPT, generator=torch.Generator().manual_seed(0), **CALL).images)
        if memory == "auto":
            assert modes == {low}
    assert torch.equal(*images)


def test_the_computer_tells_what_is_free():
    assert 2**20 < cost.free_bytes(torch.device("cpu")) < 2**50
    assert cost.free_bytes(torch.device("meta")) is None


def test_a_checkpoint_is_counted_without_its_weights(tmp_path):
    tiny.stable_diffusion_xl().save_pretrained(tmp_path)
    for file in tmp_path.glob("*/*.safetensors"):
        file.unlink()
    family, scale, size = cost.load_weightless(str(tmp_path), torch.float32)
    assert (type(family).__name__, scale, size) == ("XLFamily", 2, (16, 16))
    assert cost.method_cost(family, create_method("syngen"), size).passes == (25, 25)
    with pytest.raises(ValueError, match="no diffusers checkpoint"):
        cost.load_weightless(str(tmp_path / "nowhere"), torch.float32)
