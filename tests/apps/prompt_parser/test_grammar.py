"""Sampled prompts are well-formed trees, and the same for the same seed."""

import pytest

from apps.prompt_parser.grammar import Grammar, drop_articles
from apps.prompt_parser.inflection import ing_form, past_forms, plural, third_person
from apps.prompt_parser.trees import Node, attach_low, flatten
from tests.apps.prompt_parser.wordnet import write_wordnet


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return write_wordnet(tmp_path_factory.mktemp("wordnet"))


def path_up(heads, i):
    """A word and all its ancestors."""
    path = [i]
    while heads[path[-1]] != path[-1]:
        path.append(heads[path[-1]])
        assert len(path) <= len(heads), "a circle"
    return path


def test_every_tree_is_rooted_and_projective(wordnet):
    grammar = Grammar(wordnet, 0)
    for _ in range(1500):
        s = grammar.sample()
        assert len(s.words) == len(s.tags) == len(s.heads) == len(s.labels) > 0
        for i, head in enumerate(s.heads):
            assert (s.labels[i] == "ROOT") == (head == i)
            for between in range(min(i, head), max(i, head)):
                assert head in path_up(s.heads, between) or i in path_up(s.heads, between)


def test_same_seed_same_prompts(wordnet):
    first, second, other = (Grammar(wordnet, seed) for seed in (3, 3, 4))
    prompts = [[g.sample().words for _ in range(50)] for g in (first, second, other)]
    assert prompts[0] == prompts[1] != prompts[2]


def test_all_kinds_of_prompt_occur(wordnet):
    grammar = Grammar(wordnet, 0)
    labels = {label for _ in range(1500) for label in grammar.sample().labels}
    assert {"amod", "compound", "nmod", "npadvmod", "advmod", "acomp", "conj", "relcl", "acl", "poss"} <= labels
    assert {"nummod", "attr", "nsubj", "nsubjpass", "dobj", "pobj", "expl", "appos", "case", "det"} <= labels


def test_flatten_and_articles():
    cat = Node("cat", "NN").before("det", Node("a", "DT")).before("amod", Node("red", "JJ"))
    cat.add("conj", Node("dog", "NN").before("det", Node("the", "DT")))
    sample = flatten([cat])
    assert sample.words == ["a", "red", "cat", "the", "dog"]
    assert sample.heads == [2, 2, 2, 4, 2]
    assert sample.labels == ["det", "amod", "ROOT", "det", "conj"]
    drop_articles(cat)
    assert flatten([cat]).words == ["red", "cat", "dog"]


def test_phrases_hang_on_the_nearest_word_that_can_have_them():
    by_pond = Node("by", "IN").add("pobj", Node("pond", "NN"))
    to_ducks = Node("to", "IN").add("pobj", Node("ducks", "NNS"))
    feeding = Node("feeding", "VBG").add("dobj", Node("bread", "NN")).add("prep", to_ducks).add("prep", by_pond)
    boy = Node("boy", "NN").add("prep", Node("in", "IN").add("pobj", Node("hat", "NN"))).add("acl", feeding)
    boy.add("cc", Node("and", "CC")).add("conj", Node("dog", "NN"))
    sample = flatten([attach_low(boy)])
    heads = {word: sample.words[head] for word, head in zip(sample.words, sample.heads, strict=True)}
    assert heads["feeding"] == "hat" and heads["to"] == "bread" and heads["by"] == "ducks" and heads["dog"] == "pond"
    assert sample.words == "boy in hat feeding bread to ducks by pond and dog".split()


def test_partners_hang_on_words_of_their_kind():
    cup = Node("cup", "NN").add("relcl", Node("is", "VBZ").add("acomp", Node("red", "JJ")))
    holds = Node("holds", "VBZ").add("dobj", cup).add("cc", Node("and", "CC")).add("conj", Node("sits", "VBZ"))
    holds.add("appos", Node("mat", "NN"))
    sample = flatten([attach_low(holds)])
    heads = {word: sample.words[head] for word, head in zip(sample.words, sample.heads, strict=True)}
    assert heads["sits"] == "is" and heads["and"] == "red" and heads["mat"] == "cup"


@pytest.mark.parametrize(
    ("form", "word", "expected"),
    [
        (plural, "cherry", "cherries"), (plural, "box", "boxes"), (plural, "mouse", "mice"), (plural, "boy", "boys"),
        (third_person, "watch", "watches"), (third_person, "have", "has"), (third_person, "carry", "carries"),
        (ing_form, "sit", "sitting"), (ing_form, "ride", "riding"), (ing_form, "lie", "lying"),
        (ing_form, "eat", "eating"),
        (past_forms, "wear", ("wore", "worn")), (past_forms, "stop", ("stopped",) * 2),
        (past_forms, "bake", ("baked",) * 2), (past_forms, "sink", ("sank", "sunk")),
    ],
)  # fmt: skip
def test_inflection(form, word, expected):
    assert form(word) == expected
