import pytest

from attncontrol.layout import place, read_layout
from attncontrol.prompt import structure_of
from tests.tiny import tokenizer

LEFT, RIGHT, MIDDLE = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0), (0.4, 0.0, 0.6, 1.0)


def placed(prompt, subjects, layout):
    """Entities and their regions, by text."""
    structure = structure_of(prompt, tokenizer(), subjects)
    structure, result = place(read_layout(layout), structure, tokenizer())
    return [(entity.text, regions) for entity, regions in zip(structure.entities, result.regions, strict=True)]


@pytest.mark.parametrize(
    ("crown", "bow"),
    [
        ("crown", "bow"),
        ("red crown", "blue bow"),
        ("a red crown", "The Blue Bow"),
        ("big crown", "bow"),
        ("big red crown", "bow"),
        ("  crown ", "blue  bow"),
    ],
)
def test_phrases_name_entities(crown, bow):
    result = placed("a big red crown and a blue bow", ["big red crown", "blue bow"], {bow: RIGHT, crown: LEFT})
    assert result == [("big red crown", (LEFT,)), ("blue bow", (RIGHT,))]


def test_phrase_with_words_that_the_parser_left_out():
    result = placed("a big red crown", ["red crown"], {"big red crown": LEFT})
    assert result == [("red crown", (LEFT,))]


@pytest.mark.parametrize(
    ("prompt", "noun", "name"),
    [
        ("a potted plant beside a toilet", "plant", "potted-plant"),
        ("there are two fire hydrants", "hydrants", "fire-hydrant"),
        ("a cat and a blue bottle", "bottle", "blue_bottle"),
        ("three mice", "mice", "mouse"),
        ("two women", "women", "woman"),
        ("a shelf of cherries", "cherries", "cherry"),
        ("two wolves", "wolves", "wolf"),
    ],
)
def test_class_names_and_singulars_find_their_words(prompt, noun, name):
    result = placed(prompt, None, {name: LEFT})
    assert [text.split()[-1] for text, regions in result if regions] == [noun]


def test_a_hyphen_of_the_prompt_itself_stays():
    result = placed("a t-shirt and a bow", ["t-shirt", "bow"], {"t-shirt": LEFT})
    assert result == [("t-shirt", (LEFT,)), ("bow", ())]


def test_modifiers_tell_equal_nouns_apart():
    result = placed("a red bow and a blue bow", ["red bow", "blue bow"], {"blue bow": RIGHT})
    assert result == [("red bow", ()), ("blue bow", (RIGHT,))]


def test_equal_words_go_by_order():
    prompt, subjects = "a cat and a cat and a cat", ["cat", "cat#2", "cat#3"]
    in_turn = {"objects": [{"phrase": "cat", "boxes": [box]} for box in (LEFT, MIDDLE, RIGHT)]}
    for layout in (in_turn, {"cat": [LEFT, MIDDLE, RIGHT]}, {"cat#3": RIGHT, "cat#1": LEFT, "cat#2": MIDDLE}):
        layout = {
            k: v if k == "objects" else [list(b) for b in v] if k == "cat" else list(v) for k, v in layout.items()
        }
        assert [regions for _, regions in placed(prompt, subjects, layout)] == [(LEFT,), (MIDDLE,), (RIGHT,)]
    assert [regions for _, regions in placed(prompt, subjects, {"cat": LEFT})] == [(LEFT,), (), ()]


def test_several_boxes_for_one_entity():
    assert placed("three cats", ["cats"], {"cats": [LEFT, RIGHT]}) == [("cats", (LEFT, RIGHT))]
    objects = {"objects": [{"phrase": "cat", "boxes": [box]} for box in (LEFT, RIGHT)]}
    assert placed("two cats and a dog", ["cats", "dog"], objects) == [("cats", (LEFT, RIGHT)), ("dog", ())]


def test_words_of_the_prompt_become_entities_in_text_order():
    result = placed("a big cat and a small dog", ["dog"], {"big cat": LEFT, "small": RIGHT})
    assert result == [("big cat", (LEFT,)), ("small", (RIGHT,)), ("dog", ())]
    assert placed("a cat, a cat and a dog", ["dog"], {"cat#2": LEFT}) == [("cat", (LEFT,)), ("dog", ())]
    structure = structure_of("a big cat and a small dog", tokenizer(), ["dog"])
    structure, _ = place(read_layout({"big cat": LEFT}), structure, tokenizer())
    assert [e.token_indices for e in structure.entities] == [(2, 3), (7,)]
    assert structure.n_tokens == 9


def test_given_tokens():
    objects = [
        {"phrase": "whatever", "boxes": [LEFT], "tokens": [2, 3]},
        {"phrase": "and", "boxes": [MIDDLE], "tokens": [4]},
    ]
    structure = structure_of("a red crown and a blue bow", tokenizer(), ["red crown", "blue bow"])
    structure, layout = place(read_layout({"objects": objects}), structure)
    assert [e.token_indices for e in structure.entities] == [(2, 3), (4,), (6, 7)]
    assert layout.regions == ((LEFT,), (MIDDLE,), ())
    with pytest.raises(ValueError, match=r"'x' the tokens \[8\], the prompt's words are 1..7"):
        place(read_layout({"objects": [{"phrase": "x", "boxes": [LEFT], "tokens": [8]}]}), structure)


def test_phrase_that_is_not_in_the_prompt():
    with pytest.raises(ValueError) as error:
        placed("a red crown and a blue bow", ["red crown", "blue bow"], {"crowm": LEFT})
    assert str(error.value) == (
        "the layout names 'crowm', which is not in the prompt, did you mean 'crown'? Its entities are: 'red crown', "
        "'blue bow'; its words are: a, red, crown, and, blue, bow"
    )
    with pytest.raises(ValueError, match="names 'green crown', which is not in the prompt"):
        placed("a red crown", ["red crown"], {"green crown": LEFT})
    with pytest.raises(ValueError, match="names 'cat#3', but the prompt has 2 of 'cat'"):
        placed("a cat and a cat", ["cat", "cat#2"], {"cat#3": LEFT})


def test_new_entities_need_the_tokenizer():
    structure = structure_of("a cat and a dog", tokenizer(), ["dog"])
    with pytest.raises(ValueError, match="'cat', which is in the prompt but no entity of it; its entities are: 'dog'"):
        place(read_layout({"cat": LEFT}), structure)


def test_embeddings_without_a_prompt():
    structure = structure_of("a cat and a dog", tokenizer(), [2, 5])
    structure = type(structure)(None, structure.entities, structure.backend, structure.n_tokens)
    _, layout = place(read_layout({"dog": LEFT}), structure)
    assert layout.regions == ((), (LEFT,))
    with pytest.raises(ValueError, match="names 'bow', which is not in the prompt"):
        place(read_layout({"bow": LEFT}), structure)
