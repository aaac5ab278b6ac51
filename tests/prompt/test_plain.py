"""Syntax of other tools and learned tokens: what the parser reads, and the one warning."""

import warnings

import pytest
from transformers import CLIPTokenizer

from attncontrol.models import resolve
from attncontrol.prompt import structure_of
from attncontrol.prompt.plain import plain_words

CASES = [
    ("a (cat:1.3) and a frog", "cat frog", "compel"),
    ("a cat++ and a frog--", "cat frog", "compel"),
    ("a ((cat)) and a [frog]", "cat frog", "compel"),
    ("(((red cat:1.2))) and a frog", "cat frog", "compel"),
    ("a (red cat)1.3 and a (frog)+", "cat frog", "compel"),
    ("a cat:1.3 and a frog", "cat frog", "compel"),
    ("a cat::2 a frog::1", "cat frog", "compel"),
    ("{cat} and a frog", "cat frog", "compel"),
    ("[cat:dog:0.5] and a frog", "cat dog frog", "compel"),
    ("a cat BREAK a frog", "cat frog", "commas"),
    ("a cat AND a frog", "cat frog", "commas"),
    ("a <lora:pix:0.8> cat", "cat", "load_lora_weights"),
    ("embedding:bad a cat", "cat", "load_textual_inversion"),
    ("a <unknown> and a frog", "frog", "load_textual_inversion"),
    ("a __animal__ and a frog", "frog", "wildcard"),
    ("{cat|dog} and a frog", "cat dog frog", "wildcard"),
    ("a cat and a frog --ar 16:9 --no clock", "cat frog", "arguments of the call"),
    ("a \\(cat\\) and a frog", "cat frog", "backslash"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(resolve("emoji"), subfolder="tokenizer")


def nouns(prompt, tokenizer):
    return [entity.noun.text for entity in structure_of(prompt, tokenizer, parser="embedded").entities]


@pytest.mark.parametrize(("prompt", "found", "advice"), CASES)
def test_syntax_of_other_tools_is_no_part_of_a_noun_and_gives_one_warning(tokenizer, prompt, found, advice):
    with pytest.warns(UserWarning, match=advice) as caught:
        assert nouns(prompt, tokenizer) == found.split()
    assert len(caught) == 1
    assert len(plain_words(prompt)[0]) == len(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat (black) and a frog",
        "A CAT AND A FROG",
        "a C++ cat and a grade A+ frog",
        "a cat -- a frog",
        "a blue-eyed cat at 10:30 - and a frog",
        "a cat and a frog; 16:9",
    ],
)
def test_plain_prompts_give_no_warning(tokenizer, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [noun.lower() for noun in nouns(prompt, tokenizer)] == ["cat", "frog"]


def test_weights_are_named_for_given_subjects_too(tokenizer):
    with pytest.warns(UserWarning, match="compel"):
        structure = structure_of("a (cat:1.3) and a frog", tokenizer, ["cat"])
    assert structure.entities[0].noun.text == "cat"


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a <toy> and a frog", "<toy> frog"),
        ("a red <toy> with a hat", "<toy> hat"),
        ("a frog next to <toy>", "frog <toy>"),
        ("a photo of a <toy>, no frog", "<toy>"),
        ("sks-dog and a frog", "sks-dog frog"),
    ],
)
def test_learned_tokens_are_subjects_with_all_their_vectors(prompt, found):
    tokenizer = CLIPTokenizer.from_pretrained(resolve("emoji"), subfolder="tokenizer")
    tokenizer.add_tokens(["<toy>", "<toy>_1", "sks-dog"])
    assert nouns(prompt, tokenizer) == found.split()
    toys = [e.noun.token_indices for e in structure_of(prompt, tokenizer).entities if e.noun.text == "<toy>"]
    assert all(len(indices) == 2 for indices in toys)
