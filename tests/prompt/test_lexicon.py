"""The word classes that the embedded parser reads."""

import pytest

from attncontrol.prompt.lexicon import word_class, word_list


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dog", "<n nv>"),
        ("dogs", "<p pz>"),  # plural, or a verb's -s form
        ("geese", "<p p>"),
        ("boxes", "<p pz>"),
        ("cherries", "<p p>"),
        ("walking", "<a agn>"),
        ("blorped", "<?>"),
        ("tallest", "<c c>"),
        ("sleepy-eyed", "<a a>"),
        ("watermelon-styled", "<- d>"),  # the class of its last part
        ("blorp-glorn", "<- ?>"),
        ("the", "the"),  # closed classes stay themselves
        ("'s", "'s"),
        (",", ","),
        ("42", "0"),
        ("1,000", "0"),
        ("two", "0"),
        ("seventeen", "0"),
        ("twenty-one", "0"),
        ("one", "one"),  # a pronoun as well
    ],
)
def test_word_classes(word, expected):
    assert word_class(word) == expected


def test_frequent_part_of_speech_comes_first():
    assert word_class("wear")[1] == "v" and word_class("hat")[1] == "n" and word_class("red")[1] == "a"


def test_the_list_is_large_and_clean():
    words = word_list()
    assert len(words) > 80_000
    assert "elephant" in words and "wig" in words and "black" in words
    assert not {"fuck", "cunt", "nigger", "kike", "spic", "wetback"} & set(words)
    assert all(word == word.lower() and " " not in word for word in words)
