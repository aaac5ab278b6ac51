"""Words to token positions, on real CLIP pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import T5Tokenizer

from attncontrol.prompt import Entity, PromptStructure, Word, align
from attncontrol.prompt.align import tokenize
from tests.prompt.clip import SlowTokenizer, golden, golden_tokenizer


def tokenizers():
    return [golden_tokenizer(), SlowTokenizer(golden_tokenizer())]


def words_of(tokenized):
    return [tokenized.prompt[s[0] : s[1]] for s in tokenized.spans if s]


def structure(prompt, *words):
    entities = []
    at = 0
    for word in words:
        at = prompt.index(word, at)
        entities.append(Entity(Word(word, (at, at + len(word)))))
        at += len(word)
    return PromptStructure(prompt, tuple(entities), "test")


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=["fast", "slow"])
def test_golden_prompts(tokenizer):
    spans = {record["prompt"]: record["entities"] for record in golden("prompt_parsing.jsonl")}
    for record in golden("prompt_tokens.jsonl"):
        tokenized = tokenize(tokenizer, record["prompt"])
        assert list(tokenized.pieces) == record["clip_tokens"]
        assert tokenized.n_tokens == len(record["clip_tokens"])
        for entity, located in zip(record["entities"], spans[record["prompt"]], strict=True):
            assert list(tokenized.token_indices(tuple(located["span"]))) == entity["token_indices"]
            for modifier, place in zip(entity["modifiers"], located["modifiers"], strict=True):
                assert list(tokenized.token_indices(tuple(place["span"]))) == modifier["token_indices"]


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=["fast", "slow"])
@pytest.mark.parametrize(
    ("prompt", "word", "indices"),
    [
        ("a red café", "café", (3, 4, 5, 6)),  # ca f and the two bytes of é
        ("a red cafe\u0301", "cafe\u0301", (3, 4, 5, 6)),  # the same, with a combining accent
        ("a sleepy-eyed cat", "sleepy-eyed", (2, 3, 4)),
        ("A  RED   CAR", "CAR", (3,)),
        ("the girl's pink bicycle", "girl", (2,)),
        ("a \U0001f431 cat", "\U0001f431", (2, 3, 4, 5)),
        ("a \U0001f431 cat", "cat", (6,)),
    ],
)
def test_character_offsets(tokenizer, prompt, word, indices):
    start = prompt.index(word)
    assert tokenize(tokenizer, prompt).token_indices((start, start + len(word))) == indices


def test_tokenizers_without_a_start_token():
    """T5, as Stable Diffusion 3 and FLUX use it: pieces with a space mark, only an end token."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "\u2581red", "\u2581cat", "\u2581xylo", "phone", ","]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=12)
    tokenized = tokenize(tokenizer, "a red  cat, xylophone")
    assert tokenized.positions() == [0, 1, 2, 3, 4, 5]
    assert tokenized.token_indices((7, 10)) == (2,)
    assert tokenized.token_indices((12, 21)) == (4, 5)


def test_repeated_words_resolve_by_position():
    aligned = align(structure("a red cat and a red cat", "red", "cat", "red", "cat"), golden_tokenizer())
    assert [e.noun.token_indices for e in aligned.entities] == [(2,), (3,), (6,), (7,)]
    assert aligned.n_tokens == 9


def test_reading_leaves_the_tokenizer_as_another_thread_has_set_it():
    tokenizer = golden_tokenizer()
    tokenizer("a cat", padding="max_length", max_length=77, truncation=True)
    before = tokenizer.backend_tokenizer.padding, tokenizer.backend_tokenizer.truncation
    assert None not in before and len(tokenize(tokenizer, "a red cat").pieces) == 5
    assert (tokenizer.backend_tokenizer.padding, tokenizer.backend_tokenizer.truncation) == before
    tokenizer.add_tokens("<toy>")
    assert tokenize(tokenizer, "a <toy>").pieces[2] == "<toy>"


@pytest.mark.parametrize("slow", [False, True])
def test_words_beyond_the_limit_get_nothing_and_a_warning(slow):
    tokenizer = golden_tokenizer(max_length=8)
    tokenizer = SlowTokenizer(tokenizer) if slow else tokenizer
    prompt = "a cat and a dog on a xylophone"  # six words fit between start and end
    with pytest.warns(UserWarning, match=r"12 tokens.*keeps 8: it does not see xylophone"):
        aligned = align(structure(prompt, "cat", "dog", "xylophone"), tokenizer)
    assert [e.noun.token_indices for e in aligned.entities] == [(2,), (5,), ()]
    assert aligned.n_tokens == 8


def test_the_last_position_is_for_the_end_of_text():
    tokenized = tokenize(golden_tokenizer(max_length=7), "a cat and a dog on")
    assert tokenized.token_indices((12, 15)) == (5,)
    assert tokenized.token_indices((16, 18)) == ()  # position 6, where the end of text goes


def test_a_word_cut_in_half_counts_as_cut():
    tokenized = tokenize(golden_tokenizer(max_length=5), "a cat xylophone")
    assert tokenized.token_indices((6, 15)) == ()
    assert tokenized.positions() == [1, 2, 3]


def test_textual_inversion_of_several_vectors_is_expanded():
    tokenizer = golden_tokenizer()
    tokenizer = type(tokenizer)(vocab=tokenizer.get_vocab(), merges=tokenizer._merges, model_max_length=77)
    tokenizer.add_tokens(["<toy>", "<toy>_1", "<toy>_2"])
    prompt = "a <toy> and a red <toy> on a table"
    tokenized = tokenize(tokenizer, prompt)
    assert tokenized.token_indices((2, 7)) == (2, 3, 4)
    assert tokenized.token_indices((18, 23)) == (8, 9, 10)
    assert tokenized.token_indices((29, 34)) == (13,)
    assert tokenized.n_tokens == 15


def test_expansion_equals_diffusers():
    from diffusers.loaders import TextualInversionLoaderMixin

    tokenizer = golden_tokenizer()
    tokenizer = type(tokenizer)(vocab=tokenizer.get_vocab(), merges=tokenizer._merges, model_max_length=77)
    tokenizer.add_tokens(["<toy>", "<toy>_1", "<dog>", "<dog>_1", "<dog>_2", "<one>"])
    for prompt in ("a <toy> and a <dog> and <one>, <toy>", "<dog>", "a cat"):
        expanded = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
        assert list(tokenize(tokenizer, prompt).pieces) == tokenizer.convert_ids_to_tokens(
            tokenizer(expanded).input_ids
        )


@given(st.text(max_size=40))
def test_every_visible_character_belongs_to_a_token(prompt):
    tokenized = tokenize(golden_tokenizer(), prompt)
    covered = {i for span in tokenized.spans if span for i in range(*span)}
    ascii_visible = {i for i, c in enumerate(prompt) if "!" <= c <= "~"}
    assert ascii_visible <= covered


@given(
    st.lists(st.sampled_from(["a", "red", "Cat", "café", "axolotl", "t-shirt", ",", "\U0001f431", "  "]), max_size=12)
)
def test_slow_equals_fast(words):
    fast, slow = (tokenize(tokenizer, " ".join(words)) for tokenizer in tokenizers())
    assert fast == slow
