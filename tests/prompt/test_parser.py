"""The embedded parser: the golden prompts, properties on any string, and how parsers are found."""

import subprocess
import sys
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from apps.prompt_parser import evaluate
from attncontrol.prompt import NON_VISUAL_NOUNS, load_prompt_parser, parse_prompt, structure_of
from tests.prompt.clip import golden, golden_tokenizer

WORDS = [*"a the red cat dogs and , with in front of is that wooden - .".split(" ")]
WORDS += ["t-shirt", "T-Shirt", "sleepy-eyed", "'s", "two", "café", "🐱", "LION"]


def parsed(prompt):
    return parse_prompt(prompt, "embedded").entities


def spans(prompt):
    return [(e.noun.span, [m.span for m in e.modifiers]) for e in parsed(prompt)]


def recorded(record):
    return [(tuple(e["span"]), [tuple(m["span"]) for m in e["modifiers"]]) for e in record["entities"]]


def test_golden_prompts():
    assert [r["prompt"] for r in golden("prompt_parsing.jsonl") if spans(r["prompt"]) != recorded(r)] == []


def test_development_prompts():
    gold = evaluate.read(Path(evaluate.__file__).with_name("dev.txt"))
    scores = evaluate.score(gold, [evaluate.spans(parsed(prompt)) for prompt, _ in gold])
    assert len(gold) == 152
    assert scores["entities"] >= 0.99 and scores["modifiers"] >= 0.98, scores


def test_prompts_of_many_kinds():
    gold = evaluate.read(Path(__file__).with_name("annotated.txt"))
    scores = evaluate.score(gold, [evaluate.spans(parsed(prompt)) for prompt, _ in gold])
    assert len(gold) == 300
    assert scores["entities"] >= 0.98 and scores["modifiers"] >= 0.98, scores


@pytest.mark.parametrize(
    ("file", "number"),
    [
        (Path(evaluate.__file__).with_name("sentences.txt"), 200),
        (Path(__file__).with_name("sentences.txt"), 99),
    ],
)
def test_sentences_and_lists(file, number):
    gold = evaluate.read(file)
    scores = evaluate.score(gold, [evaluate.spans(parsed(prompt)) for prompt, _ in gold])
    assert len(gold) == number
    assert scores["entities"] >= 0.98 and scores["modifiers"] >= 0.97, scores


@pytest.mark.parametrize(
    "prompt", ["bright and colorful", "", "   ", "🐱", "...", "?!, ;", "\n\t", "\x00", "12 34", "\ud83d"]
)
def test_nothing_to_see(prompt):
    assert all(any(c.isalnum() for c in e.noun.text) for e in parsed(prompt))
    if prompt != "12 34":
        assert parsed(prompt) == ()


def test_typographic_punctuation():
    assert [e.text for e in parsed("the girl’s bicycle — a red cat—a dog")] == ["girl", "bicycle", "red cat", "dog"]


def test_long_prompt():
    prompt = ", ".join(["a red cat and a wooden chair"] * 40)
    assert len(prompt.split()) == 280
    assert sum(e.noun.text == "cat" for e in parsed(prompt)) == 40


@given(st.text(max_size=60))
def test_any_string(prompt):
    entities = parsed(prompt)
    for entity in entities:
        for word in (entity.noun, *entity.modifiers):
            assert prompt[slice(*word.span)] == word.text
        assert entity.noun not in entity.modifiers
        assert list(entity.modifiers) == sorted(entity.modifiers, key=lambda m: m.span)
    assert list(entities) == sorted(entities, key=lambda e: e.noun.span)


@given(st.lists(st.sampled_from(WORDS), max_size=15).map(" ".join))
def test_spaces_and_case_change_nothing(prompt):
    expected = spans(prompt)
    assert spans(prompt + "  ") == spans(prompt.upper()) == spans(prompt.lower()) == expected
    shifted = [((a + 2, b + 2), [(c + 2, d + 2) for c, d in ms]) for (a, b), ms in expected]
    assert spans("  " + prompt) == shifted


def test_token_indices_of_every_golden_prompt():
    for record in golden("prompt_tokens.jsonl"):
        structure = structure_of(record["prompt"], golden_tokenizer(), parser="embedded")
        if [e.noun.text for e in structure.entities] != [e["text"] for e in record["entities"]]:
            continue  # a wrong parse is for test_golden_prompts
        assert structure.n_tokens == len(record["clip_tokens"])
        for entity, expected in zip(structure.entities, record["entities"], strict=True):
            assert list(entity.noun.token_indices) == expected["token_indices"]


def test_ignore_nouns():
    assert [e.text for e in parse_prompt("a photo of a red panda", "embedded", NON_VISUAL_NOUNS).entities] == [
        "red panda"
    ]


def test_parsers_by_name_object_and_doc():
    embedded = load_prompt_parser("embedded")
    assert embedded is load_prompt_parser("embedded")
    assert parse_prompt("a red cat", embedded).backend == embedded.name == "en_attncontrol_prompts 0.2.0"
    assert parse_prompt("a red cat", embedded.nlp).entities == parsed("a red cat")
    doc = embedded.nlp("a red cat")
    assert parse_prompt("a red cat", doc).backend == "doc"
    assert parse_prompt("a red cat", doc).entities == parsed("a red cat")
    with pytest.raises(ValueError, match="the given analysis is of 'a red cat', not of the prompt 'a cat'"):
        parse_prompt("a cat", doc)


def test_pipeline_in_a_folder(tmp_path):
    load_prompt_parser("embedded").nlp.to_disk(tmp_path / "mine")
    mine = load_prompt_parser(tmp_path / "mine")
    assert mine.lower_case and parse_prompt("a RED cat", mine).entities == parsed("a RED cat")


def test_pipelines_that_do_not_load(tmp_path):
    with pytest.raises(ValueError, match=r"'en_core_web_none' does not load.*spacy download en_core_web_none"):
        load_prompt_parser("en_core_web_none")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ValueError, match="no dependency parser"):
        load_prompt_parser(str(tmp_path / "blank"))


def test_without_an_installed_pipeline_the_embedded_one_is_used(monkeypatch):
    from attncontrol.prompt import parser

    monkeypatch.setattr(spacy.util, "is_package", lambda name: name == "en_core_web_lg")
    parser._load.cache_clear()
    with pytest.warns(UserWarning, match="'en_core_web_lg' does not load"):
        assert load_prompt_parser().name.startswith("en_attncontrol_prompts")
    parser._load.cache_clear()


def test_embeddings_need_subjects():
    with pytest.raises(
        ValueError, match="given as embeddings, which cannot be parsed: give subjects as token indices"
    ):
        structure_of(None, golden_tokenizer())


def test_a_finished_structure_is_taken_as_it_is():
    structure = structure_of("a red cat", golden_tokenizer(), ["red cat"])
    assert structure_of("a red cat", golden_tokenizer(), structure) is structure
    with pytest.raises(ValueError, match="structure is of 'a red cat', not of the prompt 'a cat'"):
        structure_of("a cat", golden_tokenizer(), structure)


def test_importing_does_not_import_spacy():
    code = "import sys, attncontrol.prompt; sys.exit('spacy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
