"""Overlays and grids: where the heat is, what is pasted where, and texts that stay in their place."""

import numpy as np
import pytest
import torch
from PIL import Image

from attncontrol.guidance.record import ImageRecord
from attncontrol.images.visualize import _font, enlarge, heat_colours, labelled_grid, overlay, subject_maps, wrap
from attncontrol.prompt.structure import Entity, PromptStructure, Word


def luminance(colours) -> np.ndarray:
    return np.asarray(colours, float) @ [0.2126, 0.7152, 0.0722]


def solid(colour, size=(64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_heat_grows_brighter():
    values = luminance(heat_colours(np.linspace(0, 1, 101)))
    assert (np.diff(values) > 0).all() and values[0] < 30 and values[-1] > 220
    assert (heat_colours(np.array([-1.0, 2.0])) == heat_colours(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_the_overlay_is_hottest_where_the_map_is(size):
    attention = torch.zeros(8, 16)
    attention[1, 12] = 0.3
    heat = luminance(np.asarray(overlay(solid((90, 90, 90), size), attention)))
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert heat.shape == (size[1], size[0])
    assert abs((y + 0.5) / size[1] - 1.5 / 8) < 1 / 8 and abs((x + 0.5) / size[0] - 12.5 / 16) < 1 / 16


def test_overlays_with_one_peak_can_be_compared():
    image, weak, strong = solid((0, 0, 0)), torch.full((16, 16), 0.1), torch.full((16, 16), 0.2)
    alone = overlay(image, weak)
    assert alone.tobytes() == overlay(image, strong).tobytes()
    assert luminance(overlay(image, weak, peak=0.2)).mean() < luminance(alone).mean()
    assert overlay(image, torch.zeros(16, 16)).tobytes() == overlay(image, weak, peak=1e9).tobytes()


@pytest.mark.parametrize("attention", [torch.zeros(2, 16, 16), torch.full((16, 16), torch.nan)])
def test_maps_that_are_none_are_refused(attention):
    with pytest.raises(ValueError, match="finite and \\[height, width\\]"):
        overlay(solid((0, 0, 0)), attention)


def test_subject_maps_are_means_over_steps_by_name():
    entities = (Entity(Word("cat", None, (2,))), Entity(Word("cat", None, (5,))), Entity(Word("frog", None, (8,))))
    record = ImageRecord(PromptStructure("a cat, a cat, a frog", entities, "rules", 10))
    with pytest.raises(ValueError, match="record_maps=True"):
        subject_maps(record)
    record.maps = torch.rand(4, 3, 16, 16)
    maps = subject_maps(record)
    assert list(maps) == ["cat", "cat#2", "frog"]
    assert torch.equal(maps["frog"], record.maps[:, 2].mean(0))


def test_small_images_are_enlarged_and_large_ones_kept():
    assert enlarge(solid((0, 0, 0), (64, 32)), 256).size == (256, 128)
    assert enlarge(solid((0, 0, 0), (512, 300)), 256).size == (512, 300)


def test_a_grid_shows_every_image_in_its_cell():
    colours = [[(250, 0, 0), (0, 250, 0)], [(0, 0, 250)], [(250, 250, 0), (0, 250, 250)]]
    rows = [[solid(c, (32, 64) if c[2] else (64, 64)) for c in row] for row in colours]
    picture = labelled_grid(
        rows, row_titles=["seed 0", "seed 1", "a title too long for its place"], column_titles=["plain", "method"],
        caption="a prompt of many words " * 10, side=128,
    )  # fmt: skip
    pixels = np.asarray(picture)
    corners = []
    for colour in [colour for row in colours for colour in row]:
        ys, xs = np.nonzero((pixels == colour).all(-1))
        area = 128 * (64 if colour[2] else 128)
        assert len(ys) == area == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
        corners.append((ys.min(), xs.min()))
    (y0, x0), (y1, x1), (y2, x2), (y3, _), (y4, x4) = corners
    assert y0 == y1 < y2 < y3 == y4 and x0 == x2 < x1 == x4
    assert (pixels[:y0] < 128).any() and (pixels[y0:, :x0] < 128).any()  # caption and titles, row titles


@pytest.mark.parametrize(
    ("rows", "titles"),
    [([], {}), ([[]], {}), ([[solid((0, 0, 0))] * 2], {"column_titles": ["one"]}),
     ([[solid((0, 0, 0))]] * 2, {"row_titles": ["one"]})],
)  # fmt: skip
def test_a_grid_without_images_or_with_missing_titles_is_refused(rows, titles):
    with pytest.raises(ValueError, match="grid"):
        labelled_grid(rows, **titles)


@pytest.mark.parametrize(
    "text", ["a cat and a frog in a garden", "x" * 80, "", "two\nlines of it", "ein Löwe 🦁 一只猫"]
)
def test_wrapped_text_fits_and_loses_nothing(text):
    wrapped = wrap(text, 90)
    assert all(_font().getlength(line) <= 90 for line in wrapped.split("\n"))
    assert "".join(wrapped.split()) == "".join(text.split())
