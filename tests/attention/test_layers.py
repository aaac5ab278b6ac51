"""Layers by pattern, and what is said of a pattern that none of them matches."""

import pytest

from attncontrol.attention.layers import Layer, choose_size, match_layers

NAMES = {
    "down": ["down_blocks.1.attentions.0.transformer_blocks.0.attn2"],
    "mid": ["mid_block.attentions.0.transformer_blocks.0.attn2", "mid_block.attentions.0.transformer_blocks.1.attn2"],
    "up": [
        "up_blocks.0.attentions.1.transformer_blocks.3.attn2",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
    ],
    "joint": [f"transformer_blocks.{i}.attn" for i in (1, 4, 10, 11)],
}
LAYERS = [Layer(name, place, True, (16, 16)) for place, names in NAMES.items() for name in names]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("up", ["up.0.1.3", "up.1.0.0"]),
        ("up.1, mid", ["mid.0.0", "mid.0.1", "up.1.0.0"]),
        ("mid.0.1", ["mid.0.1"]),
        ("joint.1", ["joint.1"]),
        ("joint.4-10", ["joint.4", "joint.10"]),
        ("joint.10-11", ["joint.10", "joint.11"]),
    ],
)
def test_a_pattern_names_layers_by_the_start_of_their_path(pattern, paths):
    assert [layer.path for layer in match_layers(LAYERS, pattern)] == paths


def test_a_pattern_that_matches_nothing_is_told_which_blocks_there_are():
    blocks = "down.1, mid, up.0, up.1, joint.1, joint.4, joint.10, joint.11"
    with pytest.raises(ValueError, match=f"no attention layer matches 'up.7'; there are layers in {blocks}$"):
        match_layers(LAYERS, "up.7")


def test_sizes_are_height_by_width():
    sizes = [Layer(str(size), "up", True, size) for size in ((48, 32), (24, 16), (12, 8))]
    hidden = Layer("self", "up", False, (20, 20))
    assert choose_size([*sizes, hidden]) == (24, 16)
    assert choose_size([*sizes, hidden], (48, 32)) == choose_size(sizes, [48, 32]) == (48, 32)
    with pytest.raises(ValueError, match=r"maps of 20x20 \(height x width\); there are 12x8, 24x16, 48x32\."):
        choose_size([*sizes, hidden], 20)
    with pytest.raises(ValueError, match="its cross-attention maps have sizes none"):
        choose_size([hidden])
