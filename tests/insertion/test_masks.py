import itertools

import pytest
import torch
from PIL import Image

from attncontrol.insertion.masks import (
    blended,
    find_box,
    find_points,
    otsu_threshold,
    segmented,
    smoothed,
    subject_mask,
)


def blob(height=16, width=24):
    """A bright square in a darker field with a slope: rows 4..7, columns 12..17."""
    field = torch.linspace(0, 0.2, width).repeat(height, 1)
    field[4:8, 12:18] += 1
    return field


def test_the_threshold_parts_the_values_best():
    values = torch.rand(500, generator=torch.Generator().manual_seed(0)) ** 3

    def between(threshold):
        low, high = values[values <= threshold], values[values > threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    found, best = otsu_threshold(values), max(values.sort().values[1:-1].tolist(), key=between)
    assert abs(found - best) <= 2 / 256


def test_the_mask_is_the_blob_and_nothing_of_the_slope():
    mask = subject_mask(smoothed(blob()))
    assert mask[4:8, 12:18].all() and not mask[:2].any() and not mask[:, :10].any() and not mask[10:].any()


def test_constant_attention_has_no_mask():
    attention = smoothed(torch.full((8, 8), 0.3))
    assert torch.equal(attention, torch.zeros(8, 8)) and not subject_mask(attention).any()


def test_smoothed_attention_reaches_from_0_to_1():
    found = smoothed(blob() + 3)
    assert (found.min(), found.max()) == (0, 1)


def test_smoothing_mirrors_at_the_border():
    line = torch.tensor([[4.0, 0, 0, 0]]).repeat(4, 1)
    expected = torch.tensor([2.0, 1, 0, 0]) / 2
    torch.testing.assert_close(smoothed(line)[0], expected)


def test_a_box_and_points_in_pixels_of_a_picture_that_is_no_square():
    attention = blob()
    mask = attention > 0.5
    x0, y0, x1, y1 = find_box(mask, (64, 96))
    assert 46 <= x0 <= 48 and 14 <= y0 <= 16 and 71 <= x1 <= 73 and 31 <= y1 <= 33
    points = find_points(attention, mask, (64, 96))
    assert len(points) == 3 and all(48 <= x < 72 and 16 <= y < 32 for x, y in points)
    half = max(x1 - x0, y1 - y0) // 4
    assert all(max(abs(a - c), abs(b - d)) > half for (a, b), (c, d) in itertools.pairwise(points))


def test_places_that_are_too_weak_are_no_points():
    attention = torch.zeros(16, 16)
    attention[2, 2], attention[12, 12] = 1.0, 0.2
    assert len(find_points(attention, attention > 0.1, (16, 16))) == 1


def test_a_segmenters_masks_are_united_at_the_size_of_the_tokens():
    attention = blob()
    mask, seen = attention > 0.5, {}

    def segmenter(picture, points, box):
        seen.update(size=picture.size, points=points, box=box)
        masks = torch.zeros(2, 64, 96)
        masks[0, 8:16], masks[1, 48:56] = 1, 1
        return masks.numpy()

    found = segmented(segmenter, Image.new("RGB", (96, 64)), attention, mask)
    assert seen["size"] == (96, 64) and len(seen["points"]) == 3 and len(seen["box"]) == 4
    assert found.any(1).nonzero().flatten().tolist() == [2, 3, 12, 13]


def test_a_segmenter_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"a mask \[height, width\] of the picture's 64x96, or several, not \[8, 8\]"):
        segmented(lambda *_: torch.ones(8, 8), Image.new("RGB", (96, 64)), blob(), blob() > 0.5)


def test_latents_are_the_targets_inside_and_the_sources_outside():
    source, target = torch.zeros(4, 3), torch.ones(4, 3)
    found = blended(source, target, torch.tensor([[1.0, 0.0], [0.25, 0.0]]))
    assert found[:, 0].tolist() == [1, 0, 0.25, 0]
