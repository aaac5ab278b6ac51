import numpy as np
import pytest
import torch
from PIL import Image

from attncontrol.editing.pictures import read_picture

SIZE = (32, 48)  # height, width


def gradient(size=(48, 32)):
    """A picture whose red grows to the right."""
    row = np.linspace(0, 255, size[0]).astype(np.uint8)
    return Image.fromarray(np.dstack([np.tile(row, (size[1], 1)), np.zeros((size[1], size[0], 2), np.uint8)]))


def test_a_picture_of_the_right_size_stays_as_it_is():
    assert np.array_equal(read_picture(gradient(), SIZE), gradient())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new(mode, (48, 32)) if mode in ("I", "I;16", "F") else gradient().convert(mode)
    found = read_picture(image, SIZE)
    assert found.mode == "RGB" and found.size == (48, 32)


def test_transparent_parts_become_white():
    image = gradient().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert np.asarray(read_picture(image, SIZE)).min() == 255


def test_sixteen_bits_are_scaled_and_not_cut_off():
    image = Image.fromarray(np.full((32, 48), 32768, np.uint16))
    assert np.asarray(read_picture(image, SIZE)).max() == 127


def test_other_shapes_are_cropped_in_the_middle_and_not_squeezed():
    wide = read_picture(gradient((480, 32)), (32, 32))
    reds = np.asarray(wide)[0, :, 0]
    assert 110 < reds.min() < reds.max() < 145, "the middle tenth of the gradient"


def test_a_turned_photo_is_upright(tmp_path):
    image = gradient((32, 48))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    found = np.asarray(read_picture(tmp_path / "turned.png", SIZE))
    assert found[0, 0, 0] < 20 < 235 < found[-1, 0, 0]


@pytest.mark.parametrize(
    "given",
    [
        np.asarray(gradient()),
        np.asarray(gradient(), np.float32) / 255,
        torch.from_numpy(np.asarray(gradient()).copy()),
        torch.from_numpy(np.asarray(gradient()).copy()).permute(2, 0, 1) / 255,
        torch.from_numpy(np.asarray(gradient()).copy()).permute(2, 0, 1)[None] / 255,
    ],
)
def test_arrays_and_tensors_are_pictures(given):
    assert np.array_equal(read_picture(given, SIZE), gradient())


def damaged(folder):
    gradient((200, 200)).save(folder / "x.png")
    data = (folder / "x.png").read_bytes()
    (folder / "x.png").write_bytes(data[: len(data) // 2])
    return folder / "x.png"


def no_picture(folder):
    (folder / "x.png").write_text("not a picture")
    return folder / "x.png"


def bomb(folder):
    Image.new("1", (64, 64)).save(folder / "x.png")
    return folder / "x.png"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (damaged, "the image is damaged"),
        (no_picture, "cannot identify image file"),
        (bomb, "exceeds limit"),
        (lambda folder: folder / "none.png", "there is no image at"),
        (lambda folder: Image.new("RGB", (8, 8)), "the image is 8x8 pixels: both sides must have at least 16"),
        (lambda folder: np.full((32, 32, 3), 2.0), "must lie in 0..1, these are in 2..2"),
        (lambda folder: np.full((32, 32, 3), np.nan), "must lie in 0..1"),
        (lambda folder: np.zeros((32, 32, 7)), r"has the shape \[height, width, channels\] with 1, 3 or 4, not \[32"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_sentence(tmp_path, monkeypatch, given, message):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000 if given is bomb else Image.MAX_IMAGE_PIXELS)
    with pytest.raises(ValueError, match=message):
        read_picture(given(tmp_path), SIZE)


def test_other_things_are_a_type_error():
    with pytest.raises(TypeError, match="image must be a PIL image, a path, an array or a tensor, not int"):
        read_picture(3, SIZE)
