"""What guidance costs a diffusion transformer, counted without weights."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from attncontrol import AttendAndExcite, create_method
from attncontrol.cli import app
from attncontrol.families import FluxFamily, StableDiffusion3Family, family_of
from attncontrol.guidance import cost
from attncontrol.guidance.settings import settings_for
from tests.test_transformers import MEASURED, SLOW, captured, controlled, run
from tests.tiny_transformers import TRANSFORMERS

GRID = (8, 8)
FLUX_DEV = {"guidance_embeds": True}
SD35_MEDIUM = {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "qk_norm": "rms_norm",
    "dual_attention_layers": list(range(13)), "pos_embed_max_size": 384,
}  # fmt: skip


COUNTED = [name for name in TRANSFORMERS if name != "Lumina 2"]
FEW = [pytest.param(name, marks=() if name in MEASURED else SLOW) for name in COUNTED]


def text_keys(call):
    states = call.get("cap_feats") or call["encoder_hidden_states"]
    return states[0].shape[0]


@pytest.mark.parametrize("family", COUNTED)
def test_the_counted_call_has_the_shapes_of_a_real_one(family):
    of, call, _ = captured(controlled(family))
    rows = len(of.latents(call))
    counted = of.example_call(rows, GRID, text_keys(call))
    for name, value in counted.items():
        if name != "timestep" or call[name].ndim:  # of AuraFlow, one for all rows
            assert described(value) == described(call[name]), name
    real = {name for name, value in call.items() if described(value) not in (None, {}, False)}
    assert real - counted.keys() <= {"return_dict", "encoder_hidden_states_mask"}


def described(value):
    """Shapes in place of tensors; of lists and tuples the number of rows and the first."""
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, list | tuple):
        return len(value), described(value[0])
    return {n: described(item) for n, item in value.items() if item is not None} if isinstance(value, dict) else value


@pytest.mark.parametrize("family", COUNTED)
def test_the_count_is_that_of_the_real_model(family):
    of, call, _ = captured(controlled(family))
    if family == "Lumina 2":  # it lets padding go
        call["encoder_attention_mask"] = torch.ones_like(call["encoder_attention_mask"])
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        of.denoiser(**call)
    counted = cost.plain_cost(of, GRID, len(of.latents(call)), text_keys(call))
    assert counted.operations == counter.get_total_flops()


@pytest.mark.parametrize("family", FEW)
def test_a_guided_pass_is_counted_in_both_memory_modes(family):
    of = family_of(controlled(family))
    found = cost.method_cost(of, AttendAndExcite(), GRID)
    if found.low is None:
        assert family == "HunyuanDiT" and found.fast.peak_bytes > found.fast.kept_bytes > 0
        return
    assert found.fast.peak_bytes > found.fast.kept_bytes > found.low.kept_bytes > 0
    assert found.low.operations > found.fast.operations > found.plain.operations / 6


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("free", [2**40, 2**10])
def test_memory_is_chosen_by_what_is_free(family, free, monkeypatch):
    monkeypatch.setattr(cost, "free_bytes", lambda device: free)
    pipe, modes = controlled(family), set()

    def note(module, args, kwargs):
        if torch.is_grad_enabled():
            modes.add(module.is_gradient_checkpointing)

    handle = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    run(pipe, steps=1, control=AttendAndExcite(thresholds={}))
    handle.remove()
    assert modes == {free == 2**10 and family != "HunyuanDiT"}


def test_chroma_keeps_its_activations_where_recomputing_is_refused(monkeypatch):
    monkeypatch.setattr(cost, "free_bytes", lambda device: 2**10)
    pipe, single = controlled("Chroma"), AttendAndExcite(thresholds={}, layers="single")
    assert run(pipe, steps=1, control=single).control.images[0].steps[0].moved
    assert cost.method_cost(family_of(pipe), single, GRID).low is None


@pytest.mark.parametrize("family", FEW)
def test_a_checkpoint_is_counted_from_its_configurations(family, tmp_path):
    pipe = TRANSFORMERS[family]()
    pipe.save_config(tmp_path)
    for part in ("transformer", "vae"):
        pipe.components[part].save_config(tmp_path / part)
    of, pixels, usual = cost.load_weightless(str(tmp_path), torch.float32)
    assert type(of) is type(family_of(pipe)) and pixels == (16 if family == "HunyuanDiT" else 4)
    side = str(8 * pixels)
    command = ["methods", "conform", "--cost", "--model", str(tmp_path), "--width", side, "--height", side]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "8x8" in result.output, result.output
    assert ("classifier-free" in result.output) == (family not in ("FLUX.1", "FLUX.2"))
    assert usual == ((8, 8) if "sample_size" in of.denoiser.config else (64, 64))


def counted(family, config, low_memory, **layers):
    of = family.weightless(config, torch.bfloat16)
    chosen = AttendAndExcite(**layers).select_layers(of.layers((64, 64)))
    return cost.guided_cost(of, (64, 64), chosen, low_memory)


def test_joint_softmaxes_do_not_live_for_all_layers_at_once():
    """Of 64x64 image queries and 512 + 4096 keys, 24 heads and float32; layers as wide as FLUX.1's."""
    matrix = 24 * 4096 * (512 + 4096) * 4
    few, more = (
        counted(FluxFamily, {"num_layers": count, "num_single_layers": 0}, True, layers="joint") for count in (2, 4)
    )
    assert more.peak_bytes < matrix
    assert more.peak_bytes - few.peak_bytes < matrix / 4


@pytest.mark.slow
def test_flux_at_1024_pixels_is_guided_in_3_gib():
    of = FluxFamily.weightless(FLUX_DEV, torch.bfloat16)
    for name, settings in settings_for(of, {}).items():
        found = cost.method_cost(of, create_method(name, **settings), (64, 64))
        assert found.low.peak_bytes <= 3 * 2**30, name


@pytest.mark.slow
def test_what_is_kept_is_what_was_counted_independently():
    """Twelve layers of 24 of Stable Diffusion 3.5 medium, and FLUX.1's 19 joint ones, in GiB."""
    found = [
        counted(*model, low_memory, layers=layers).kept_bytes / 2**30
        for model, layers in (((StableDiffusion3Family, SD35_MEDIUM), "joint.0-11"), ((FluxFamily, FLUX_DEV), "joint"))
        for low_memory in (False, True)
    ]
    assert found == pytest.approx([3.7, 0.46, 6.9, 1.5], rel=0.02)
