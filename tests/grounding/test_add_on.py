"""Gates in a file of their own: added to a UNet they are its gates, and change nothing that is not grounded."""

import pytest
import torch
from safetensors.torch import save_file

from attncontrol import AttentionControlPipeline
from attncontrol.grounding import add_gates
from attncontrol.models import has_gates
from tests import tiny
from tests.grounding import gated
from tests.grounding.gated import LAYOUT, draw


def gates_of(unet):
    """The weights that a UNet without gates does not have."""
    plain = tiny.unet().state_dict()
    return {name: value for name, value in unet.state_dict().items() if name not in plain}


@pytest.fixture
def pipe():
    made = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    made.set_progress_bar_config(disable=True)
    return made


def test_added_gates_are_those_of_a_checkpoint_that_has_them(pipe, tmp_path):
    unet = gated.unet()
    unet.load_state_dict(pipe.unet.state_dict(), strict=False)
    plain = draw(pipe)
    save_file(gates_of(unet), tmp_path / "gates.safetensors")
    add_gates(pipe, tmp_path / "gates.safetensors")
    assert torch.equal(draw(pipe), plain)
    wanted = draw(gated.controlled(unet=unet), layout=LAYOUT, grounding="reground")
    assert torch.equal(draw(pipe, layout=LAYOUT, grounding="reground"), wanted)
    with pytest.raises(ValueError, match="has gates already"):
        add_gates(pipe, tmp_path / "gates.safetensors")


def test_blocks_without_a_gate_in_the_file_keep_closed_ones(pipe, tmp_path):
    only_up = {name: value for name, value in gates_of(gated.unet()).items() if not name.startswith(("down", "mid"))}
    save_file(only_up, tmp_path / "gates.safetensors")
    add_gates(pipe, tmp_path / "gates.safetensors")
    grounded = draw(pipe, layout=LAYOUT, grounding=True)
    assert grounded.isfinite().all() and not torch.equal(grounded, draw(pipe))
    assert pipe.unet.mid_block.attentions[0].transformer_blocks[0].fuser.alpha_attn == 0


def test_a_checkpoint_with_gates_beside_it_loads_with_them(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not has_gates(tmp_path)
    save_file(gates_of(gated.unet()), tmp_path / "gates.safetensors")
    loaded = AttentionControlPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert has_gates(tmp_path) and loaded.unet.config.attention_type == "gated"
    assert torch.equal(draw(loaded), draw(pipe))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gates: {"conv_in.weight": torch.zeros(2)}, "'conv_in.weight' is no gate of this UNet"),
        (lambda gates: {name: value[..., None] for name, value in gates.items()}, "is no gate of this UNet"),
        (lambda gates: {}, "it is empty"),
    ],
)
def test_gates_that_do_not_fit_are_refused(pipe, tmp_path, change, message):
    unet = pipe.unet
    save_file(change(gates_of(gated.unet())), tmp_path / "gates.safetensors")
    with pytest.raises(ValueError, match=message):
        add_gates(pipe, tmp_path / "gates.safetensors")
    assert pipe.unet is unet


def test_a_damaged_file_is_named(pipe, tmp_path):
    (tmp_path / "gates.safetensors").write_bytes(b"no tensors")
    for name in ("gates.safetensors", "none.safetensors"):
        with pytest.raises(ValueError, match=f"cannot read the gates .*{name}"):
            add_gates(pipe, tmp_path / name)
