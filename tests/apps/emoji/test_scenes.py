import itertools

import numpy as np
import pytest

from apps.emoji.artwork import glyph
from apps.emoji.captions import KINDS, Noise, Template, pair, sample, together
from apps.emoji.scenes import SIZE, Thing, _overlap, render
from apps.emoji.vocabulary import COLOURS, NAMES, OBJECTS


def test_every_object_has_artwork_in_every_colour():
    assert len(NAMES) == 24 and len(COLOURS) == 11
    for name in NAMES:
        natural = glyph(name, None, 40)[0]
        for colour in COLOURS:
            tinted, box = glyph(name, colour, 40)
            assert np.array_equal(tinted[..., 3], natural[..., 3])
            assert max(box[2] - box[0], box[3] - box[1]) >= 36


@pytest.mark.parametrize("colour", COLOURS)
def test_a_tinted_object_has_the_mean_hue_of_its_colour(colour):
    palette = np.array(list(COLOURS.values()), np.float32)
    right = 0
    for name in NAMES:
        pixels = glyph(name, colour, 40)[0]
        mean = pixels[..., :3].sum((0, 1)) / pixels[..., 3].sum() * 255
        right += list(COLOURS)[int(np.square(palette - mean).sum(1).argmin())] == colour
    assert right >= 22, f"{right} of 24 glyphs are nearest to {colour}"


def test_same_seed_same_scene():
    things = [Thing("cat"), Thing("bow", "red")]
    first, second, other = (render(np.random.default_rng(seed), things) for seed in (3, 3, 4))
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]
    assert not np.array_equal(first[0], other[0])


def test_boxes_lie_inside_hardly_overlap_and_hold_what_is_drawn():
    rng = np.random.default_rng(0)
    for _ in range(100):
        things = [Thing("lion"), Thing("suitcase", "black")]
        image, placed = render(rng, things)
        boxes = [item.box for item in placed]
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= SIZE and 0 <= top < bottom <= SIZE
        assert _overlap(*boxes) <= 0.1
        left, top, right, bottom = boxes[1]
        outside = image.astype(int).copy()
        for box in boxes:
            outside[box[1] : box[3], box[0] : box[2]] = 255
        assert outside.sum(2).min() > 450, "something dark lies outside the boxes"
        assert image[top:bottom, left:right].sum(2).min() < 200, "no black object in its box"


def test_captions_have_the_benchmarks_forms():
    cat, bow, frog = Thing("cat"), Thing("bow", "red"), Thing("frog")
    assert Template().fill([cat, frog]) == "a cat and a frog"
    assert Template(join=" with ").fill([cat, bow]) == "a cat with a red bow"
    assert Template().fill([Thing("elephant"), Thing("apple", "orange")]) == "an elephant and an orange apple"
    assert Template().fill([cat, frog, bow]) == "a cat, a frog and a red bow"


def test_shares_of_noise_are_what_was_asked_for():
    rng = np.random.default_rng(1)
    noise = Noise(absent=0.4, absent_objects=0.2, swapped=0.5, never_together=0.2)
    absent: dict[bool, list[bool]] = {True: [], False: []}  # by whether both are objects
    swapped = both_coloured = 0
    for _ in range(6000):
        text, things = sample(rng, noise)
        named = [word for word in text.replace(",", "").split() if word in NAMES]
        if len(named) == 1:
            assert [thing.name for thing in things] == named, "one-object captions are always right"
        if len(named) != 2:
            continue
        shown = {thing.name for thing in things}
        assert shown <= set(named)
        absent[set(named) <= set(OBJECTS)].append(len(shown) == 1)
        coloured = [thing for thing in things if thing.colour]
        if len(shown) == 2 and len(coloured) == 2:
            both_coloured += 1
            swapped += any(f"{thing.colour} {thing.name}" not in text for thing in things)
    assert abs(np.mean(absent[False]) - 0.4) < 0.04
    assert abs(np.mean(absent[True]) - 0.2) < 0.04
    assert abs(swapped / both_coloured - 0.5) < 0.05


def test_some_pairs_never_occur_together():
    pairs = list(itertools.combinations(NAMES, 2))
    kept = [together(first, second, 0.2) for first, second in pairs]
    assert 0.7 < np.mean(kept) < 0.9
    assert kept == [together(second, first, 0.2) for first, second in pairs]
    rng = np.random.default_rng(2)
    for _ in range(1000):
        first, second = pair(rng, KINDS[rng.integers(3)], never_together=0.2)
        assert together(first.name, second.name, 0.2)
