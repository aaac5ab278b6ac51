import warnings

import pytest
import torch

from attncontrol.attention.layers import Layer
from attncontrol.losses import create_method, method_classes
from tests.losses.inputs import context
from tests.losses.layouts import LEFT, placed

METHODS = [name for name, cls in method_classes().items() if cls.needs_layout]
TINY = (0.5, 0.5, 0.52, 0.52)


def layers(height=16, width=16):
    """Cross- and self-attention of the middle block and, at twice its size, of an up block."""
    sizes = {"mid": (height // 2, width // 2), "up": (height, width)}
    return [Layer(f"{place}.{i}", place, i == 2, size) for place, size in sizes.items() for i in (1, 2)]


def test_methods_that_need_a_layout():
    assert METHODS == ["attention-refocusing", "boxdiff", "layout-guidance"]


@pytest.mark.parametrize("name", METHODS)
def test_a_layout_with_a_box_is_needed(name):
    method = create_method(name)
    with pytest.raises(ValueError, match=rf"{name} needs a layout: pass layout="):
        method.check(context([[1]]))
    for now in (placed(([1], [])), placed(([None], [LEFT])), placed()):
        with pytest.raises(ValueError, match=rf"{name}: the layout has no box for any entity of the prompt"):
            method.check(now)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("variant", "fate"), [("default", "gets one"), ("reference", "is an empty region in the reference variant")]
)
def test_boxes_smaller_than_a_cell_are_named_once(name, variant, fate):
    method = create_method(name, variant=variant)
    with pytest.warns(UserWarning) as caught:
        method.check_maps(placed(([1, 2], [TINY]), ([4], [LEFT])), layers())
    assert [str(w.message) for w in caught] == [
        f"{name}: the layout of '1 2': box [0.5, 0.5, 0.52, 0.52] covers no cell of 16x16 attention maps and {fate}"
    ]


def test_masks_smaller_than_a_cell_are_named():
    mask = torch.zeros(512, 512, dtype=torch.bool)
    mask[:4, :4] = True
    with pytest.warns(UserWarning, match="a mask covers no cell of 8x12 attention maps"):
        create_method("boxdiff").check_maps(placed(([1], [mask])), layers(8, 12))


@pytest.mark.parametrize("name", METHODS)
def test_other_boxes_pass_in_silence(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        now = placed(([1], [LEFT, (0.0, 0.0, 1.0, 1.0)]), ([4], [LEFT]), ([6], []))
        create_method(name).check(now)
        create_method(name).check_maps(now, layers())
        create_method(name).check_maps(placed(([1], [TINY])), layers(64, 64))
