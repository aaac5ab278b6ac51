"""Entities and modifiers from a given dependency parse, as any spaCy pipeline may make it."""

import pytest

from attncontrol.prompt.dependencies import DependencyParse
from attncontrol.prompt.entities import extract_entities
from tests.prompt.clip import golden


def parse(text, *columns):
    """A parse from rows "word pos label head"; the prompt is the words joined by spaces unless given."""
    rows = [row.split() for row in columns]
    words, pos, labels, heads = zip(*rows, strict=True)
    return DependencyParse.from_words(text, words, pos, labels, [int(h) for h in heads])


def found(parse):
    return [(e.noun.text, [m.text for m in e.modifiers]) for e in extract_entities(parse)]


def recorded(name):
    for method in ("syngen", "ebama"):
        for record in golden(f"{method}/groupings.jsonl"):
            if record["name"] == name:
                p = record["dependency_parse"]
                return DependencyParse.from_words(record["prompt"], p["words"], p["pos"], p["dep"], p["head"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coordinated_mods", [("bowl", ["checkered"]), ("table", ["red", "blue"])]),
        (
            "three_entities",
            [("strawberry", ["skewered"]), ("clock", ["checkered"]), ("penguin", ["spotted", "sleepy"])],
        ),
        ("relative_clause", [("apple", ["red"]), ("pear", ["green"])]),
        ("copula_two", [("apple", ["big", "red"]), ("pear", ["small", "green"])]),
        ("copula_conj", [("apple", ["red", "green"])]),
        ("copula_conj_subject", [("apple", ["red"]), ("pear", ["red"])]),
        ("repeated_noun", [("cat", ["big", "red"]), ("cat", ["blue"])]),
        ("list_of_four", [("dog", ["furry"]), ("bird", ["teal"]), ("chair", ["modern"]), ("bow", [])]),
        ("compound_noun", [("hydrant", ["fire"]), ("dog", ["black"])]),
        ("degree_adverb", [("man", ["very", "tall"]), ("hat", ["bright", "red"])]),
        ("npadvmod_open", [("field", ["snow", "covered"]), ("barn", ["red"])]),
        ("triple_coordination", [("cat", ["red", "black", "white"])]),
        ("possessive", [("girl", []), ("bicycle", ["pink"])]),
        ("numerals", [("balloons", ["red"]), ("kites", ["blue"])]),
        ("proper_noun", [("Tower", ["Eiffel"]), ("taxi", ["yellow"])]),
        ("photo_of", [("photo", []), ("panda", ["red"])]),
        ("no_noun", []),
    ],
)
def test_recorded_parses(name, expected):
    assert found(recorded(name)) == expected


def test_coordinated_noun_modifiers_are_no_entities():
    desk = parse(
        "a wood and metal desk", "a DET det 4", "wood NOUN nmod 4", "and CCONJ cc 1", "metal NOUN conj 1",
        "desk NOUN ROOT 4",
    )  # fmt: skip
    assert found(desk) == [("desk", ["wood", "metal"])]


def test_a_coordinated_noun_with_an_article_or_adjective_of_its_own_is_an_entity():
    hat = parse(
        "a red hat and rubber boots", "a DET det 2", "red ADJ amod 2", "hat NOUN nmod 5", "and CCONJ cc 2",
        "rubber NOUN conj 2", "boots NOUN ROOT 5",
    )  # fmt: skip
    assert found(hat) == [("hat", ["red"]), ("boots", ["rubber"])]


def test_a_noun_with_an_article_is_no_partner_of_an_adjective():
    apple = parse(
        "the apple is green and the pear", "the DET det 1", "apple NOUN nsubj 2", "is AUX ROOT 2", "green ADJ acomp 2",
        "and CCONJ cc 3", "the DET det 6", "pear NOUN conj 3",
    )  # fmt: skip
    assert found(apple) == [("apple", ["green"]), ("pear", [])]


def test_a_noun_before_an_adjective_with_a_complement_is_an_entity():
    street = parse(
        "a street free of cars", "a DET det 1", "street NOUN npadvmod 2", "free ADJ ROOT 2", "of ADP prep 2",
        "cars NOUN pobj 3",
    )  # fmt: skip
    assert found(street) == [("street", []), ("cars", [])]


def test_predicates_of_a_list_of_subjects():
    cups = parse(
        "cups, plates and bowls are blue", "cups NOUN nsubj 5", ", PUNCT punct 0", "plates NOUN appos 0",
        "and CCONJ cc 2", "bowls NOUN conj 2", "are AUX ROOT 5", "blue ADJ acomp 5",
    )  # fmt: skip
    assert found(cups) == [("cups", ["blue"]), ("plates", ["blue"]), ("bowls", ["blue"])]


def test_an_adjective_in_the_place_of_a_noun_with_its_article_is_an_entity():
    orange = parse(
        "an orange in the square", "an DET det 1", "orange ADJ ROOT 1", "in ADP prep 1", "the DET det 4",
        "square ADJ pobj 2",
    )  # fmt: skip
    assert found(orange) == [("orange", []), ("square", [])]
    ball = parse(
        "a red and a blue ball", "a DET det 1", "red ADJ ROOT 1", "and CCONJ cc 1", "a DET det 5", "blue ADJ amod 5",
        "ball NOUN conj 1",
    )  # fmt: skip
    assert found(ball) == [("ball", ["blue"])]


def test_hyphens_that_a_pipeline_splits_are_joined():
    cat = parse(
        "a sleepy-eyed cat in a t-shirt", "a DET det 4", "sleepy ADJ npadvmod 3", "- PUNCT punct 3", "eyed ADJ amod 4",
        "cat NOUN ROOT 4", "in ADP prep 4", "a DET det 9", "t NOUN compound 9", "- PUNCT punct 9", "shirt NOUN pobj 5",
    )  # fmt: skip
    assert found(cat) == [("cat", ["sleepy-eyed"]), ("t-shirt", [])]
    assert extract_entities(cat)[0].modifiers[0].span == (2, 13)


def test_a_free_hyphen_joins_nothing():
    assert found(parse("cat - dog", "cat NOUN ROOT 0", "- PUNCT punct 0", "dog NOUN appos 0")) == [
        ("cat", []),
        ("dog", []),
    ]
    assert found(parse("cat-", "cat NOUN ROOT 0", "- PUNCT punct 0")) == [("cat", [])]


@pytest.mark.parametrize("place", ["in front", "on top", "in the middle", "at the edge", "to the left"])
def test_nouns_of_complex_prepositions_are_no_entities(place):
    words = ["cat", *place.split(), "of", "barn"]
    pos = ["NOUN", "ADP", *["DET"] * (len(words) - 5), "NOUN", "ADP", "NOUN"]
    last = len(words) - 1
    heads = [0, 0, *[last - 2] * (len(words) - 5), 1, last - 2, last - 1]
    labels = ["ROOT", "prep", *["det"] * (len(words) - 5), "pobj", "prep", "pobj"]
    given = DependencyParse.from_words(" ".join(words), words, pos, labels, heads)
    assert found(given) == [("cat", []), ("barn", [])]


def test_pronouns_and_quantities_are_left_out():
    given = parse(
        "something red near several other cats", "something NOUN ROOT 0", "red ADJ amod 0", "near ADP prep 0",
        "several ADJ amod 5", "other ADJ amod 5", "cats NOUN pobj 2",
    )  # fmt: skip
    assert found(given) == [("cats", [])]


def test_verbs_that_a_tagger_calls_nouns_are_no_entities():
    given = parse(
        "the owl sits near a cat lying on grass", "the DET det 1", "owl NOUN nsubj 2", "sits NOUN ROOT 2",
        "near ADP prep 2", "a DET det 5", "cat NOUN pobj 3", "lying NOUN acl 5", "on ADP prep 6", "grass NOUN pobj 7",
    )  # fmt: skip
    assert found(given) == [("owl", []), ("cat", []), ("grass", [])]


def test_a_verb_is_no_compound():
    given = parse(
        "a bear wearing sunglasses", "a DET det 1", "bear NOUN ROOT 1", "wearing VERB compound 3",
        "sunglasses NOUN dobj 1",
    )  # fmt: skip
    assert found(given) == [("bear", []), ("sunglasses", [])]


def test_predicates_of_two_verbs_with_one_subject():
    given = parse(
        "the sky is blue and is bright", "the DET det 1", "sky NOUN nsubj 2", "is AUX ROOT 2", "blue ADJ acomp 2",
        "and CCONJ cc 2", "is AUX conj 2", "bright ADJ acomp 5",
    )  # fmt: skip
    assert found(given) == [("sky", ["blue", "bright"])]


def test_ignored_nouns_go_with_their_modifiers():
    given = recorded("photo_of")
    assert [e.noun.text for e in extract_entities(given, {"photo"})] == ["panda"]


@pytest.mark.parametrize("label", ["amod", "conj", "acomp", "nsubj", "relcl", "compound"])
def test_strange_trees_end(label):
    """Heads in a circle or a thousand words in a chain neither loop nor overflow the stack."""
    text = " ".join(["red"] * 3000)
    size = 3000
    chain = DependencyParse.from_words(text, ["red"] * size, ["NOUN"] * size, [label] * size, [0, *range(size - 1)])
    extract_entities(chain)
    circle = DependencyParse.from_words("a b c", ["a", "b", "c"], ["NOUN"] * 3, [label] * 3, [1, 2, 0])
    extract_entities(circle)


def test_bad_lists_are_refused():
    with pytest.raises(ValueError, match="'dog' is not in 'a cat'"):
        DependencyParse.from_words("a cat", ["a", "dog"], ["DET", "NOUN"], ["det", "ROOT"], [1, 1])
    with pytest.raises(ValueError, match="of one length"):
        DependencyParse.from_words("a cat", ["a", "cat"], ["DET"], ["det", "ROOT"], [1, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        DependencyParse.from_words("a cat", ["a", "cat"], ["DET", "NOUN"], ["det", "ROOT"], [2, 1])
