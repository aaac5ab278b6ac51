"""Subjects named by the caller."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.prompt import resolve_subjects, structure_of
from tests.prompt.clip import golden_tokenizer

PROMPT = "a red crown and a blue bow and a red cat and a cat"


def resolved(subjects, prompt=PROMPT):
    """(noun, its token indices, {modifier: its indices}) of every subject."""
    structure = structure_of(prompt, golden_tokenizer(), subjects)
    assert structure.backend == "subjects"
    return [
        (e.noun.text, e.noun.token_indices, {m.text: m.token_indices for m in e.modifiers}) for e in structure.entities
    ]


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        (["bow", "crown"], [("bow", (7,), {}), ("crown", (3,), {})]),
        (["red crown", "blue  BOW"], [("crown", (3,), {"red": (2,)}), ("bow", (7,), {"blue": (6,)})]),
        (["cat", "cat"], [("cat", (11,), {}), ("cat", (14,), {})]),
        (["red cat", "cat"], [("cat", (11,), {"red": (10,)}), ("cat", (14,), {})]),
        (["cat#2"], [("cat", (14,), {})]),
        (["cat#2", "cat#1"], [("cat", (14,), {}), ("cat", (11,), {})]),
        (["red#2"], [("red", (10,), {})]),
        ([3, 7], [("crown", (3,), {}), ("bow", (7,), {})]),
        ([[2, 3]], [("red crown", (2, 3), {})]),
        ([(3, 7)], [("crown bow", (3, 7), {})]),
        ([("red", "cat")], [("cat", (11,), {"red": (10,)})]),  # the nearest red
        ([("blue", "red", "cat")], [("cat", (11,), {"blue": (6,), "red": (10,)})]),
        ([([2], [3])], [("crown", (3,), {"red": (2,)})]),
        ([("red", 3), ("cat",), ("cat",)], [("crown", (3,), {"red": (2,)}), ("cat", (11,), {}), ("cat", (14,), {})]),
        ([("red", "crown"), ("red", "bow")], [("crown", (3,), {"red": (2,)}), ("bow", (7,), {"red": (2,)})]),
    ],
)
def test_words_phrases_indices_groups(subjects, expected):
    assert resolved(subjects) == expected


def test_words_of_several_tokens_and_hyphens():
    prompt = "a purple axolotl and a sleepy-eyed cat"
    assert resolved(["axolotl", "sleepy-eyed cat"], prompt) == [
        ("axolotl", (3, 4, 5, 6), {}),
        ("cat", (12,), {"sleepy-eyed": (9, 10, 11)}),
    ]
    assert resolved(["eyed"], prompt) == [("eyed", (11,), {})]


def test_whole_words_go_before_parts_of_hyphenated_ones():
    prompt = "a cat-red bowl and a cat"
    assert resolved(["cat"], prompt) == [("cat", (8,), {})]
    assert resolved(["red"], prompt) == [("red", (4,), {})]


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        (
            ["cta"],
            r"'cta' is not in the prompt, did you mean 'cat'\? Its words are: a, red, crown, and, blue, bow, cat$",
        ),
        (["elephant"], r"'elephant' is not in the prompt\. Its words are"),
        (["ed"], r"'ed' is not in the prompt"),
        ([""], "is not in the prompt"),
        (["cat#3"], r"no 'cat#3': the prompt has 'cat' 2 times"),
        (["cat#0"], r"no 'cat#0'"),
        (["cat"] * 3, r"'cat' is named more often than it occurs in the prompt \(2 times\)"),
        ([("cat",)] * 3, r"every 'cat' of the prompt is already"),
        ([0], r"token index 0 is outside the prompt's words: 1 'a', 2 'red', .*14 'cat'$"),
        ([-1], "token index -1 is outside"),
        ([15], "token index 15 is outside"),
        ([76], "token index 76 is outside"),
        ([True], "not True"),
        ([2.0], r"not 2\.0"),
        ([None], "not None"),
        ([[2, "x", None]], "'x' is not in|not None"),
        ([], "subjects is empty"),
        ([[]], "empty list"),
        ([("red", [])], "empty list"),
        ("cat", "must be a list"),
        (7, "must be a list"),
        ([3, 3], "token 3 is the noun of two subjects"),
        (["crown", (2, 3)], "token 3 is the noun of two subjects, 'crown' and"),
        ([[3, 3]], "names a token twice"),
        ([("crown", "crown")], "names a token twice"),
        (["crown and a blue bow"], "names several things, 'crown' and 'bow'"),
    ],
)
def test_errors_say_what_is_wrong(subjects, message):
    with pytest.raises(ValueError, match=message):
        resolved(subjects)


SUBJECT = st.recursive(
    st.sampled_from(["cat", "red", "red crown", "bow#1", "cat#9", "", "#", "a", 3, 7, 0, -2, 99, True, None, 1.5]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(SUBJECT, max_size=4), st.sampled_from([PROMPT, "", "🐱", None]))
def test_whatever_is_given_resolves_or_raises_value_error(subjects, prompt):
    with contextlib.suppress(ValueError):
        structure = structure_of(prompt, golden_tokenizer(), subjects, parser="embedded")
        nouns = [i for entity in structure.entities for i in entity.noun.token_indices]
        assert len(structure.entities) == len(subjects)
        assert nouns and len(set(nouns)) == len(nouns)
        assert all(1 <= i <= structure.n_tokens - 2 for entity in structure.entities for i in entity.token_indices)


def test_subject_beyond_the_text_encoder():
    prompt = "a dog and " * 25 + "a cat"
    with pytest.raises(ValueError, match=r"'cat' lies beyond the 77 tokens .* \(79 tokens\)"):
        resolved(["cat"], prompt)
    assert resolved(["dog", "dog"], prompt) == [("dog", (2,), {}), ("dog", (5,), {})]


def test_embeddings_take_token_indices_only():
    structure = resolve_subjects([3, (4, 5), ([1], [2])], None, golden_tokenizer())
    assert [e.noun.token_indices for e in structure.entities] == [(3,), (4, 5), (2,)]
    assert structure.n_tokens == 77 and structure.prompt is None
    for subjects in (["cat"], [("red", "cat")]):
        with pytest.raises(ValueError, match="given as embeddings, so subjects must be token indices"):
            resolve_subjects(subjects, None, golden_tokenizer())
    with pytest.raises(ValueError, match=r"token index 76 is outside .* run from 1 to 75"):
        resolve_subjects([76], None, golden_tokenizer())
    assert resolve_subjects([76], None, golden_tokenizer(), length=154).n_tokens == 154


def test_without_a_prompt_the_text_encoder_says_which_positions_are_words():
    without_start = resolve_subjects([0], None, golden_tokenizer(), length=8, text=(slice(0, -1),))
    assert without_start.encoders == (tuple(range(7)),)
    two = {"length": 20, "text": (slice(1, 5), slice(8, -1))}
    assert resolve_subjects([(1, 18)], None, golden_tokenizer(), **two).encoders == ((1, 2, 3, 4), tuple(range(8, 19)))
    with pytest.raises(ValueError, match="token index 6 is outside"):
        resolve_subjects([6], None, golden_tokenizer(), **two)


def test_parsed_words_beyond_the_text_encoder_are_left_out():
    prompt = "a dog and " * 25 + "a red cat"
    with pytest.warns(UserWarning, match="does not see red, cat|does not see cat, red"):
        structure = structure_of(prompt, golden_tokenizer())
    assert {e.noun.text for e in structure.entities} == {"dog"}
    assert all(e.noun.token_indices for e in structure.entities)
