import pytest

from attncontrol.layout import automatic_layout, place, read_layout
from attncontrol.prompt import structure_of
from attncontrol.prompt.structure import PromptStructure
from tests.tiny import tokenizer


def layout_of(prompt, *subjects):
    """The boxes of every subject."""
    structure, layout = place(read_layout("auto"), structure_of(prompt, tokenizer(), list(subjects)))
    assert [entity.text for entity in structure.entities] == list(subjects)
    for boxes in layout.boxes:
        for x0, y0, x1, y1 in boxes:
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
            assert 1 / 1.5 - 1e-9 <= (x1 - x0) / (y1 - y0) <= 1.5 + 1e-9
    return layout.boxes


def is_left(first, second):
    return all(a[2] <= b[0] for a in first for b in second)


def is_above(first, second):
    return all(a[3] <= b[1] for a in first for b in second)


@pytest.mark.parametrize(
    "relation",
    ["and a", ", a", "to the left of a", "on the left of a", "left of a", "on the left side of a", "next to a",
     "beside a", "near a", "with a", "in front of a", "by the side of a"],
)  # fmt: skip
def test_first_to_the_left(relation):
    cat, frog = layout_of(f"a cat {relation} frog", "cat", "frog")
    assert is_left(cat, frog)


@pytest.mark.parametrize("relation", ["to the right of", "right of", "on the right-hand side of", "on the right of"])
def test_first_to_the_right(relation):
    cat, frog = layout_of(f"a cat {relation} a frog", "cat", "frog")
    assert is_left(frog, cat)


@pytest.mark.parametrize("relation", ["above", "over", "on top of", "on the top of", "atop", "sitting on", "is Above"])
def test_first_above(relation):
    cat, frog = layout_of(f"a cat {relation} a frog", "cat", "frog")
    assert is_above(cat, frog)


@pytest.mark.parametrize("relation", ["below", "under", "underneath", "beneath"])
def test_first_below(relation):
    cat, frog = layout_of(f"a cat {relation} a frog", "cat", "frog")
    assert is_above(frog, cat)


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("a cat on the left and a frog on the right", True),
        ("a cat on the right and a frog on the left", False),
        ("a cat and a frog on the left side", False),
        ("a cat on the right, a frog", False),
    ],
)
def test_sides_of_the_image(prompt, left):
    cat, frog = layout_of(prompt, "cat", "frog")
    assert is_left(cat, frog) if left else is_left(frog, cat)


def test_top_and_bottom_of_the_image():
    cat, frog = layout_of("a cat at the bottom and a frog at the top", "cat", "frog")
    assert is_above(frog, cat)


def test_plain_pair_boxes():
    assert layout_of("a cat and a frog", "cat", "frog") == (
        (pytest.approx((0.05, 0.2, 0.45, 0.8)),),
        (pytest.approx((0.55, 0.2, 0.95, 0.8)),),
    )


def test_three_things_and_chains():
    cat, dog, frog = layout_of("a cat, a dog and a frog", "cat", "dog", "frog")
    assert is_left(cat, dog) and is_left(dog, frog)
    cat, dog, frog = layout_of("a cat above a dog to the right of a frog", "cat", "dog", "frog")
    assert is_above(cat, dog) and is_left(frog, dog)
    cat, dog, frog = layout_of("a cat to the left of a dog above a frog", "cat", "dog", "frog")
    assert is_left(cat, dog) and is_above(dog, frog)


def test_scenes_and_depictions_get_no_box():
    cat, dog, garden = layout_of("a cat and a dog in a garden", "cat", "dog", "garden")
    assert is_left(cat, dog) and garden == ()
    assert layout_of("a dog at a lake", "dog", "lake")[1] == ()
    dog, cat = layout_of("a dog barking at a cat", "dog", "cat")
    assert is_left(dog, cat)
    cat, garden, dog, frog = layout_of("a cat in a garden and a dog above a frog", "cat", "garden", "dog", "frog")
    assert garden == () and is_left(cat, dog) and is_above(dog, frog)
    cat, bowl, fruit, dog = layout_of("a cat in a bowl of fruit, a dog", "cat", "bowl", "fruit", "dog")
    assert bowl == fruit == () and is_left(cat, dog)
    photo, cat = layout_of("a photo of a cat", "photo", "cat")
    assert photo == () and cat == (pytest.approx((0.1, 0.1, 0.9, 0.9)),)


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("two cats", 2), ("three fluffy cats", 3), ("5 cats", 5), ("a couple of cats", 2), ("a pair of cats", 1),
     ("ten cats", 10), ("cats", 1),
     ("many cats", 1), ("200 cats", 1), ("0 cats", 1), ("one cats", 1)],
)  # fmt: skip
def test_counts(prompt, count):
    subject = "fluffy cats" if "fluffy" in prompt else "cats"
    (cats,) = layout_of(prompt, subject)
    assert len(cats) == count
    assert all(is_left([a], [b]) or is_left([b], [a]) or is_above([a], [b]) or is_above([b], [a])
               for a in cats for b in cats if a != b)  # fmt: skip


def test_equal_things_share_their_part_evenly():
    for prompt, rows in (("two cats", 1), ("three cats", 2), ("four cats", 2), ("six cats", 2), ("nine cats", 3)):
        (cats,) = layout_of(prompt, "cats")
        assert len({y0 for _, y0, _, _ in cats}) == rows
    cats, _ = layout_of("three cats and a dog", "cats", "dog")
    assert len({y0 for _, y0, _, _ in cats}) == 3


def test_counts_within_relations():
    cats, dogs = layout_of("two cats to the right of three dogs", "cats", "dogs")
    assert (len(cats), len(dogs)) == (2, 3) and is_left(dogs, cats)


def test_words_of_a_relation_are_not_placed():
    structure = structure_of("a cat to the left of a frog", tokenizer(), ["cat", "left", "frog"])
    cat, left, frog = automatic_layout(structure).boxes
    assert left == () and is_left(cat, frog)


def test_subjects_in_any_order_and_by_token():
    frog, cat = layout_of("a cat to the left of a frog", "frog", "cat")
    assert is_left(cat, frog)
    structure = structure_of("a cat to the left of a frog", tokenizer(), [2, [8]])
    assert is_left(*automatic_layout(structure).boxes)


def test_nothing_to_place():
    with pytest.raises(ValueError, match="layout='auto' finds nothing to place"):
        automatic_layout(PromptStructure("bright and colorful", (), "rules", 5))
