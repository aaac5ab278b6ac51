import json

import pytest
import torch

from attncontrol.editing.alignment import align_prompts, align_sequences
from tests import tiny
from tests.golden import golden_files

MAPPERS = [
    json.loads(line)
    for path in golden_files("dpl", "mappers.jsonl")[:1]
    for line in path.read_text(encoding="utf-8").splitlines()
]


def align(source, target):
    return align_prompts(source, target, tiny.tokenizer(), 77)


def changes(source, target):
    return [change.text for change in align(source, target).changes]


@pytest.mark.parametrize("case", MAPPERS, ids=lambda case: case["target"])
def test_pieces_are_aligned_as_the_published_code_does(case):
    found = align_sequences(case["source_ids"], case["target_ids"])
    assert found == case["mapper"][: len(found)]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a red car and a cat", "a blue car and a cat", ["red -> blue"]),
        ("an apple and a cat", "a bear and a cat", ["apple -> bear"]),
        ("a cat and a dog", "a big cat and a red dog", ["+ big", "+ red"]),
        ("a big red cat", "a cat", ["- big red"]),
        ("a cat and a dog", "a small black lion and a dog", ["cat -> small black lion"]),
    ],
)
def test_changes_are_what_differs_between_the_words(source, target, expected):
    assert changes(source, target) == expected


@pytest.mark.parametrize("prompt", ["a cat", "a cat, a Dog and a big sombrero.", "a zebra in the photo"])
def test_equal_prompts_hand_on_every_column_as_it_is(prompt):
    alignment = align(prompt, prompt)
    assert torch.equal(alignment.matrix, torch.eye(77))
    assert not alignment.changes


def test_a_word_of_more_pieces_takes_its_predecessors_columns_and_shifts_the_rest():
    matrix = align("a bow and a dog", "a sombrero and a dog").matrix
    for position, source in ((1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (76, 75)):
        assert matrix[:, position].nonzero().flatten().tolist() == [source]


def test_a_word_of_fewer_pieces_takes_the_mean_of_its_predecessors_pieces():
    matrix = align("a sombrero and a dog", "a bow and a dog").matrix
    assert matrix[:, 2].nonzero().flatten().tolist() == [2, 3]
    assert matrix[2, 2] == matrix[3, 2] == 0.5


def test_several_words_for_one_all_look_where_the_noun_looked():
    matrix = align("a small cat and a dog", "a big black lion and a dog").matrix
    assert [matrix[:, i].nonzero().flatten().tolist() for i in (2, 3, 4)] == [[3], [3], [3]]


def test_an_inserted_word_takes_nothing_and_all_others_take_one_whole_column():
    alignment = align("a cat and a dog", "a cat and a red dog")
    assert alignment.weights[5] == 0
    assert torch.equal(alignment.matrix.sum(0), alignment.weights)
    assert alignment.weights.sum() == 76


def test_a_changed_word_that_the_encoder_cuts_off_is_refused_by_name():
    long = "cat and " * 40
    with pytest.raises(ValueError, match=r"'dog'.*lies beyond the 77 positions"):
        align(f"{long} a dog", f"{long} a lion")


def test_an_inserted_word_that_the_encoder_cuts_off_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the changed word .* lies beyond the 77 positions"):
        align("a dog", "a dog " + "and a cat " * 30)


@pytest.mark.parametrize("target", ["a  cat", "a cat ", "a\ncat", "a cat, 🐱"])
def test_spaces_and_signs_are_no_words_beyond_the_encoders_end(target):
    align("a cat", target)
