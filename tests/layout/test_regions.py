import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.layout import Layout, bounding_box, cell_box, cell_mask, cell_masks

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
boxes = st.tuples(*(st.floats(0, 1) for _ in range(4))).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def test_rows_are_height_and_columns_width():
    mask = cell_mask((0.5, 0.0, 1.0, 0.25), (8, 4))
    expected = torch.zeros(8, 4, dtype=torch.bool)
    expected[:2, 2:] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    ("box", "nearest", "truncate"),
    [
        ((0.05, 0.2, 0.45, 0.8), (1, 3, 7, 13), (0, 3, 7, 12)),
        ((0.09375, 0.15625, 0.46875, 0.59375), (2, 2, 8, 10), (1, 2, 7, 9)),  # halves go to the even border
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 16, 16), (0, 0, 16, 16)),
    ],
)
def test_edges(box, nearest, truncate):
    assert cell_box(box, (16, 16)) == nearest
    assert cell_box(box, (16, 16), edges="truncate") == truncate


def test_box_without_a_cell():
    thin = (0.51, 0.0, 0.52, 1.0)
    for edges in ("nearest", "truncate"):
        assert not cell_mask(thin, (16, 16), edges=edges, at_least_one=False).any()
        assert cell_box(thin, (16, 16), edges=edges) == (8, 0, 9, 16)
    assert cell_box((0.999, 0.999, 1.0, 1.0), (16, 16)) == (15, 15, 16, 16)


def test_truncated_boxes_beyond_the_image_act_as_slices():
    """As in the published code: above 1 is clipped, below -1 / size counts from the end (section 3)."""
    published = {"edges": "truncate", "at_least_one": False}
    assert cell_mask((0.5, 0.5, 1.5, 1.5), (4, 4), **published).sum() == 4
    wrapped = cell_mask((-0.5, 0.0, 1.0, 1.0), (4, 4), **published)
    assert torch.equal(wrapped[0], torch.tensor([False, False, True, True]))
    assert cell_mask((-0.2, 0.0, 0.5, 1.0), (4, 4), **published).sum() == 8


@given(boxes, sizes, st.sampled_from(["nearest", "truncate"]))
def test_boxes_cover_their_cells(box, size, edges):
    x0, y0, x1, y1 = cell_box(box, size, edges=edges)
    assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
    assert cell_mask(box, size, edges=edges).sum() == (x1 - x0) * (y1 - y0)
    for first, last, cells, low, high in ((box[0], box[2], size[1], x0, x1), (box[1], box[3], size[0], y0, y1)):
        assert abs(low - first * cells) <= 1 and abs(high - last * cells) <= 1


@given(sizes, sizes, st.integers(0, 2**31))
def test_masks_cover_at_least_the_fullest_cell(mask_size, size, seed):
    mask = torch.rand(mask_size, generator=torch.Generator().manual_seed(seed)) < 0.3
    mask[0, 0] = True
    cells = cell_mask(mask, size)
    assert cells.shape == size and cells.any()
    assert torch.equal(cell_mask(mask, mask_size), mask)
    x0, y0, x1, y1 = cell_box(mask, size)
    assert cells[y0:y1, x0:x1].sum() == cells.sum() and cells[y0].any() and cells[:, x1 - 1].any()


def test_mask_cells_are_those_half_covered():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :2] = True
    mask[0, 4] = True
    mask[4:, 4:] = True
    assert cell_mask(mask, (2, 2)).tolist() == [[True, False], [False, True]]
    mask[:4, :2] = mask[4:, 4:] = False
    assert cell_mask(mask, (2, 2)).tolist() == [[False, True], [False, False]]
    assert not cell_mask(mask, (2, 2), at_least_one=False).any()


def test_several_regions_at_once():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    masks = cell_masks([(0.0, 0.0, 0.5, 1.0), mask], (4, 4))
    assert masks.flatten(1).sum(1).tolist() == [8, 4]


def test_boxes_of_a_layout():
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[2:4, 5:10] = True
    layout = Layout((((0.1, 0.1, 0.2, 0.2), mask), ()))
    assert layout.boxes == (((0.1, 0.1, 0.2, 0.2), (0.25, 0.2, 0.5, 0.4)), ())
    assert bounding_box(mask) == (0.25, 0.2, 0.5, 0.4)
