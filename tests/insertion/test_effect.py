"""What insertion does to pictures: on the bundled FLUX, whose attention shows things."""

import pytest
from PIL import Image

from attncontrol import AttentionControlPipeline
from attncontrol.evaluation import oracle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def emoji():
    pipe = AttentionControlPipeline.from_pretrained("emoji-flux")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seen(image: Image.Image) -> dict:
    """Boxes by name."""
    return {found.object: found.box for found in oracle.detect(image)[0]}


@pytest.mark.parametrize("is_picture", [False, True])
def test_the_thing_comes_and_the_scene_stays(emoji, is_picture):
    made = emoji.insert("a red car", "a cat", seed=3)
    if is_picture:
        made = emoji.insert(made.sources[0], "a cat", prompt="a red car", seed=3)
    before, after = seen(made.sources[0]), seen(made.images[0])
    assert set(before) == {"car"} and set(after) == {"car", "cat"}
    assert max(abs(a - b) for a, b in zip(before["car"], after["car"], strict=True)) < 0.15


def test_the_published_settings_draw_the_source_again(emoji):
    made = emoji.insert("a red car", "a cat", seed=3, settings={"variant": "reference"})
    assert set(seen(made.images[0])) == {"car"}
