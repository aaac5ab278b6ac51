import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps.emoji import oracle_training
from apps.emoji.captions import Noise, sample
from apps.emoji.scenes import Placed, Thing, render
from attncontrol.evaluation import oracle
from attncontrol.evaluation.oracle import Detection, detect, expected_from_prompt, verdict

LABELLED, LABELLED_FLUX = (Path(__file__).parent / name for name in ("generated", "generated_flux"))


def scenes(count, seed):
    rng = np.random.default_rng([seed, 777])
    things = [sample(rng, Noise(absent=0, absent_objects=0, swapped=0, never_together=0))[1] for _ in range(count)]
    drawn = [render(rng, each) for each in things]
    return np.stack([image for image, _ in drawn]), [placed for _, placed in drawn]


def names_and_colours(detections):
    return sorted((found.object, str(found.colour)) for found in detections)


def test_reads_held_out_scenes_exactly():
    images, placed = scenes(300, 1)
    wanted = [sorted((item.thing.name, str(item.thing.colour)) for item in scene) for scene in placed]
    right = [names_and_colours(found) == want for found, want in zip(detect(images), wanted, strict=True)]
    assert np.mean(right) >= 0.97


def test_boxes_match_the_rendered_ones():
    images, placed = scenes(60, 2)
    ratios = []
    for found, scene in zip(detect(images), placed, strict=True):
        for item in scene:
            box = np.array(item.box) / 64
            ratios.append(max((intersection_over_union(box, each.box) for each in found), default=0))
    assert np.mean(np.array(ratios) > 0.7) > 0.95


def intersection_over_union(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_half_formed_objects_count_as_absent():
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    images, placed = scenes(200, 3)
    pictures, left = oracle_training.make_batch(rng, images, placed, np.arange(200), spoilt=1.0)
    assert not any(left)
    array = ((pictures.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
    seen = sum(len(found) for found in detect(array))
    assert seen <= 0.3 * sum(len(scene) for scene in placed)  # some are spoilt so little that a person knows them, too


def test_pictures_of_other_sizes_and_kinds_are_read_alike():
    rng = np.random.default_rng(4)
    array, _ = render(rng, [Thing("frog"), Thing("suitcase", "red")])
    picture = Image.fromarray(array)
    small = detect(picture)
    large = detect([picture.resize((256, 256), Image.Resampling.NEAREST)])
    assert names_and_colours(small[0]) == names_and_colours(large[0]) == [("frog", "None"), ("suitcase", "red")]
    assert detect([]) == []


def test_a_result_does_not_depend_on_the_batch():
    images, _ = scenes(8, 5)
    together = detect(images)
    for index in range(8):
        alone = detect(images[index : index + 1])[0]
        assert names_and_colours(alone) == names_and_colours(together[index])


@pytest.mark.parametrize(
    "bad", ["cat.png", np.zeros((64, 64, 3), np.uint8), np.zeros((1, 64, 64, 3), np.float32), [1]]
)
def test_other_things_than_pictures_are_type_errors(bad):
    with pytest.raises(TypeError, match="images must be"):
        detect(bad)


def test_expected_from_prompt():
    assert expected_from_prompt("A cat, and the red bow with an apple") == [
        ("cat", None),
        ("bow", "red"),
        ("apple", None),
    ]
    with pytest.raises(ValueError, match="names no object the oracle knows"):
        expected_from_prompt("a dragon")


def found(name, colour=None):
    return Detection(name, colour, (0.0, 0.0, 0.5, 0.5), 0.9)


def test_verdict_on_presence_and_colour():
    swapped = verdict("a red bow and a blue car", [found("bow", "blue"), found("car", "red")])
    assert swapped.all_present and not swapped.all_right and swapped.coloured == (False, False)
    neglected = verdict([("cat", None), ("frog", None)], [found("cat"), found("cat")])
    assert neglected.present == (True, False) and not neglected.all_present
    one_of_two = verdict([("bow", "red")], [found("bow", "blue"), found("bow", "red")])
    assert one_of_two.all_right
    any_colour = verdict([("bow", None)], [found("bow", "blue")])
    assert any_colour.all_right


def test_verdict_on_unknown_words():
    with pytest.raises(ValueError, match="knows no 'dragon'"):
        verdict([("dragon", None)], [])
    with pytest.raises(ValueError, match="knows no colour 'beige'"):
        verdict([("cat", "beige")], [])


def test_training_targets_agree_with_the_decoder():
    """Perfect network output for a scene decodes to that scene."""
    scene = [Placed(Thing("cat"), (4, 6, 34, 36)), Placed(Thing("bow", "red"), (36, 30, 62, 58))]
    names, colours, distances = oracle_training.targets([scene])
    network = oracle.load()
    background = len(network.names)
    name = torch.nn.functional.one_hot(torch.where(names == oracle_training.IGNORE, background, names), background + 1)
    colour = torch.nn.functional.one_hot(colours.clamp(min=0), len(network.colours) + 1)
    decoded = oracle.decode(
        network, 20.0 * name.permute(0, 3, 1, 2), 20.0 * colour.permute(0, 3, 1, 2), distances, threshold=0.5
    )
    assert names_and_colours(decoded[0]) == [("bow", "red"), ("cat", "None")]
    boxes = {each.object: each.box for each in decoded[0]}
    assert np.allclose(np.array(boxes["cat"]) * 64, scene[0].box, atol=0.01)


@pytest.mark.skipif(not LABELLED.exists(), reason="no labelled pictures")
def test_agrees_with_human_labels_on_generated_pictures():
    labels = json.loads((LABELLED / "labels.json").read_text())
    page = Image.open(LABELLED / "pictures.png").convert("RGB")
    columns = page.width // 64
    agree = []
    for index, label in enumerate(labels):
        x, y = 64 * (index % columns), 64 * (index // columns)
        seen = verdict(label["prompt"], page.crop((x, y, x + 64, y + 64)))
        agree += [a == b for a, b in zip(seen.present, label["present"], strict=True)]
    assert len(labels) >= 200
    assert np.mean(agree) >= 0.90


def test_agrees_with_human_labels_on_generated_pictures_of_128_pixels():
    """Plain and controlled pictures of the bundled FLUX; "seen" was written down before the oracle was asked."""
    labels = json.loads((LABELLED_FLUX / "labels.json").read_text())
    page = Image.open(LABELLED_FLUX / "pictures.webp").convert("RGB")
    corners = [(128 * (index % 16), 128 * (index // 16)) for index in range(len(labels))]
    agree = []
    for label, found in zip(labels, detect([page.crop((x, y, x + 128, y + 128)) for x, y in corners]), strict=True):
        expected = expected_from_prompt(label["prompt"])
        seen = [words.split() for words in label["seen"].split("; ")]
        by_eye = [any(name == w[-1] and colour in (None, w[0]) for w in seen) for name, colour in expected]
        agree += [a == b for a, b in zip(verdict(expected, found).coloured, by_eye, strict=True)]
    assert len(labels) >= 200 and len({label["method"] for label in labels}) >= 8
    assert np.mean(agree) >= 0.94
