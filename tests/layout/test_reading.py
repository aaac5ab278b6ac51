import json
import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from attncontrol.layout import read_layout

BOX = [0.1, 0.2, 0.5, 0.6]


def only(value, **kwargs):
    """The regions of the only phrase."""
    (item,) = read_layout(value, **kwargs)
    return item.regions


def test_dict_of_phrases():
    layout = read_layout({"cat": BOX, "red frogs": [BOX, (0, 0, 1, 1)]})
    assert [(item.phrase, item.regions) for item in layout] == [
        ("cat", (tuple(BOX),)),
        ("red frogs", (tuple(BOX), (0, 0, 1, 1))),
    ]
    assert read_layout(layout) is layout
    assert read_layout("auto") == "auto"


@pytest.mark.parametrize("value", [np.array(BOX), torch.tensor(BOX), list(np.array(BOX)), [np.array(BOX)], tuple(BOX)])
def test_arrays(value):
    assert only({"cat": value})[0] == pytest.approx(BOX)


def test_pixels():
    assert only({"cat": [128, 64, 256, 512]}, image_size=512) == ((0.25, 0.125, 0.5, 1.0),)
    assert only({"cat": [128, 64, 256, 128]}, image_size=(128, 512)) == ((0.25, 0.5, 0.5, 1.0),)
    assert only({"cat": [128, 64, 256, 512], "image_size": 512}) == ((0.25, 0.125, 0.5, 1.0),)


def test_json_form(tmp_path):
    Image.new("L", (4, 4), 255).save(tmp_path / "frog.png")
    value = {
        "prompt": "a red banana and a frog",
        "image_size": [100, 200],
        "objects": [
            {"phrase": "red banana", "boxes": [[20, 10, 100, 50], [100, 50, 200, 100]], "tokens": [2, 3]},
            {"phrase": "frog", "mask": "frog.png"},
        ],
    }
    (tmp_path / "layout.json").write_text(json.dumps(value))
    for given in (str(tmp_path / "layout.json"), tmp_path / "layout.json"):
        banana, frog = read_layout(given)
        assert banana.phrase == "red banana" and banana.tokens == (2, 3)
        assert banana.regions == ((0.1, 0.1, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0))
        assert frog.regions[0].shape == (4, 4) and frog.regions[0].all()


@pytest.mark.parametrize(
    "value",
    [
        [["cat", [0.5, 0, 1, 1]], ["dog", BOX], ["cat", [0, 0, 0.5, 1]]],
        {"iter": 0, "prompt": "x", "object_list": [["cat", [[0.5, 0, 1, 1], [0, 0, 0.5, 1]]], ["dog", BOX]]},
        {"prompt": "x", "phrases": ["cat", "dog", "cat"], "locations": [[0.5, 0, 1, 1], BOX, [0, 0, 0.5, 1]]},
        {"gligen_phrases": ["cat", "dog", "cat"], "gligen_boxes": [[0.5, 0, 1, 1], BOX, [0, 0, 0.5, 1]]},
    ],
)
def test_pairs_and_parallel_lists(value, tmp_path):
    (tmp_path / "layout.json").write_text(json.dumps(value))
    for given in (value, tmp_path / "layout.json"):
        cat, dog = read_layout(given)
        assert (cat.phrase, cat.regions) == ("cat", ((0.5, 0, 1, 1), (0, 0, 0.5, 1)))
        assert (dog.phrase, dog.regions) == ("dog", (tuple(BOX),))


def half_painted(mode, ground, paint):
    image = Image.new(mode, (4, 2), ground)
    image.paste(paint, (0, 0, 2, 2))
    return image


@pytest.mark.parametrize(
    "image",
    [
        half_painted("L", 0, 255),
        half_painted("L", 0, 1),
        half_painted("1", 0, 1),
        half_painted("RGB", (0, 0, 0), (200, 220, 180)),
        half_painted("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
        half_painted("LA", (255, 0), (30, 255)),
        half_painted("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
    ],
)
def test_masks(image, tmp_path):
    image.save(tmp_path / "mask.png")
    for given in (image, tmp_path / "mask.png", str(tmp_path / "mask.png")):
        (mask,) = only({"cat": given})
        assert mask.dtype == torch.bool
        assert mask.tolist() == [[True, True, False, False]] * 2


def test_slight_overshoot_is_clipped_with_a_warning():
    with pytest.warns(UserWarning, match=r"'cat': box \[-0.02, 0, 0.5, 1.05\] reaches outside 0..1 and is clipped"):
        assert only({"cat": [-0.02, 0, 0.5, 1.05]}) == ((0, 0, 0.5, 1),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"cat": [0.5, 0.2, 0.1, 0.6]}, "'cat': box [0.5, 0.2, 0.1, 0.6] is inverted: x0 = 0.5 must be"),
        ({"cat": [0.1, 0.6, 0.5, 0.2]}, "is inverted: y0 = 0.6 must be smaller than y1 = 0.2"),
        ({"cat": [0.1, 0.2, 0.1, 0.6]}, "'cat': box [0.1, 0.2, 0.1, 0.6] is empty: x0 must be smaller than x1"),
        ({"cat": [0, 0, 0.5, 1.2]}, "'cat': box [0, 0, 0.5, 1.2] lies outside 0..1"),
        ({"cat": [-0.3, 0, 0.5, 1]}, "lies outside 0..1"),
        ({"cat": [1, 0, 1.04, 1]}, "lies outside 0..1"),
        ({"cat": [10, 20, 300, 400]}, "For boxes in pixels give image_size"),
        ({"cat": [math.nan, 0, 1, 1]}, "'cat': box [nan, 0, 1, 1] must be 4 finite numbers"),
        ({"cat": [0, 0, math.inf, 1]}, "must be 4 finite numbers"),
        ({"cat": [0, 0, 10**400, 1]}, "must be 4 finite numbers"),
        ({"cat": [0, 0, "1", 1]}, "'cat': box [0, 0, '1', 1] must be 4 finite numbers"),
        ({"cat": [0, 0, True, 1]}, "must be 4 finite numbers"),
        ({"cat": [0, 0, 1]}, "'cat': box [0, 0, 1] must be 4 numbers x0, y0, x1, y1"),
        ({"cat": [[0, 0, 1, 1], [0, 0, 1, 1, 1]]}, "'cat': box [0, 0, 1, 1, 1] must be 4 numbers"),
        ({"cat": [[0, 0, 1, 1], 5]}, "'cat': box 5 must be 4 numbers"),
        ({"cat": []}, "'cat' has no box"),
        ({"cat": 5}, "'cat' must be a box [x0, y0, x1, y1], a list of boxes or a mask image, not 5"),
        ({"cat": None}, "'cat' must be a box"),
        ({"cat": "nowhere.png"}, "cannot read the mask of 'cat', 'nowhere.png'"),
        ({"cat": Image.new("L", (4, 4), 0)}, "the mask of 'cat' is empty"),
        ({"cat": Image.new("L", (0, 4))}, "the mask of 'cat' has no pixels"),
        ({1: BOX}, "a phrase of the layout must be words of the prompt, not 1"),
        ({" ": BOX}, "a phrase of the layout must be words of the prompt, not ' '"),
        ({}, "the layout is empty"),
        ([BOX], "a layout is a dict of phrase"),
        (None, "a layout is a dict of phrase"),
        ("automatic", "the only words are 'auto' and the path of a .json file"),
        ("nowhere.json", "cannot read the layout file 'nowhere.json'"),
        ({"prompt": "a cat", "objects": []}, 'the layout needs "objects"'),
        ({"prompt": "a cat", "object": [{"phrase": "cat"}]}, "unknown key 'object'; there are: prompt, objects"),
        ({"objects": [{"boxes": [BOX]}]}, 'object 1 of the layout has no "phrase"'),
        ({"objects": [{"phrase": "cat", "box": BOX}]}, "the layout of 'cat' has the unknown key 'box'"),
        ({"objects": [{"phrase": "cat"}]}, "the layout of 'cat' has neither \"boxes\" nor \"mask\""),
        ({"objects": [{"phrase": "cat", "boxes": [BOX], "tokens": [0]}]}, "the tokens of 'cat' must be a list"),
        ({"objects": [{"phrase": "cat", "boxes": [BOX], "tokens": "2"}]}, "the tokens of 'cat' must be a list"),
        ({"objects": [{"phrase": "cat", "mask": 5}]}, "the mask of 'cat' must be an image or an image file, not 5"),
        ({"phrases": ["a", "b"], "locations": [BOX]}, "the layout has 2 phrases and 1 boxes: give one box per phrase"),
        ([["cat", [0.5, 0.5, 0.2, 0.2]]], "a box is two corners, not a corner with width and height"),
        ({"cat": BOX, "image_size": 0}, "image_size must be the image's side in pixels"),
        ({"cat": BOX, "image_size": [1, 2, 3]}, "image_size must be the image's side in pixels"),
    ],
)  # fmt: skip
def test_errors_name_the_phrase_and_what_would_be_right(value, message):
    with pytest.raises(ValueError) as error:
        read_layout(value)
    assert message in str(error.value)


def test_pixels_outside_name_the_frame():
    with pytest.raises(ValueError, match="lies outside the image, 512 wide and 256 high"):
        read_layout({"cat": [0, 0, 600, 200]}, image_size=(256, 512))


def test_bad_files(tmp_path):
    (tmp_path / "layout.json").write_text("{")
    with pytest.raises(ValueError, match=r"layout\.json' is not JSON"):
        read_layout(tmp_path / "layout.json")
    whole = BytesIO()
    Image.new("L", (64, 64), 255).save(whole, "png")
    for content in (b"no image", whole.getvalue()[:50], whole.getvalue()[:-20]):
        (tmp_path / "mask.png").write_bytes(content)
        with pytest.raises(ValueError, match="cannot read the mask of 'cat'"):
            read_layout({"cat": tmp_path / "mask.png"})
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not JSON"):
        read_layout(tmp_path / "binary.json")
