"""The published codes' groups: every golden record, from words, parts of speech, labels and heads."""

import pytest
import spacy
from spacy.tokens import Doc

from attncontrol.prompt.dependencies import DependencyParse
from tests.prompt.clip import golden, golden_tokenizer
from tests.prompt.reference import ebama_groups, reference_structure, syngen_groups


def parse_of(record):
    parse = record["dependency_parse"]
    return DependencyParse.from_words(record["prompt"], parse["words"], parse["pos"], parse["dep"], parse["head"])


VOCABULARY = spacy.blank("en").vocab


def doc_of(record):
    parse = record["dependency_parse"]
    spans = parse_of(record).spans
    spaces = [end < len(record["prompt"]) and record["prompt"][end] == " " for _, end in spans]
    return Doc(VOCABULARY, parse["words"], spaces, pos=parse["pos"], deps=parse["dep"], heads=parse["head"])


def as_recorded(groups, none_for_bare=False):
    """Groups in the golden files' form: a word is an index, or a list of several."""
    found = []
    for group in groups:
        words = [list(w.token_indices) for w in group if w.token_indices]
        words = [w[0] if len(w) == 1 else w for w in words]
        found.append([None, *words] if none_for_bare and len(group) == 1 else words)
    return found


@pytest.mark.parametrize("record", golden("syngen/groupings.jsonl"), ids=lambda r: r["name"])
@pytest.mark.parametrize("include_entities", [False, True])
def test_syngen(record, include_entities):
    expected = record["official_include_entities" if include_entities else "official"]
    if "error" in expected:
        with pytest.raises(ValueError, match=r"no noun in 'bright red'"):
            syngen_groups(parse_of(record), record["clip_tokens"], include_entities)
    else:
        groups = syngen_groups(parse_of(record), record["clip_tokens"], include_entities)
        assert as_recorded(groups) == expected["groups"]


@pytest.mark.parametrize("record", golden("ebama/groupings.jsonl"), ids=lambda r: r["name"])
def test_ebama(record):
    if "error" in record["official"]:
        with pytest.raises(ValueError, match=r"no noun in|published code fails here: none of 'Eiffel Tower'"):
            ebama_groups(parse_of(record), record["clip_tokens"])
    else:
        groups = ebama_groups(parse_of(record), record["clip_tokens"])
        assert as_recorded(groups, none_for_bare=True) == record["official"]["groups"]


@pytest.mark.parametrize("method", ["syngen", "ebama"])
def test_a_doc_and_a_tokenizer_give_the_same_groups_as_a_structure(method):
    for record in golden(f"{method}/groupings.jsonl"):
        if "error" in record["official"]:
            continue
        structure = reference_structure(record["prompt"], golden_tokenizer(), method, doc_of(record))
        groups = [[*entity.modifiers, entity.noun] for entity in structure.entities]
        assert as_recorded(groups, method == "ebama") == record["official"]["groups"]
        assert structure.backend == f"{method} reference, doc"
        assert structure.n_tokens == len(record["clip_tokens"])


def test_a_word_that_does_not_align_drops_out_but_is_remembered():
    prompt = "a red café and a bowl"
    words = ["a", "red", "café", "and", "a", "bowl"]
    doc = DependencyParse.from_words(
        prompt, words, ["DET", "ADJ", "NOUN", "CCONJ", "DET", "NOUN"], ["det", "amod", "ROOT", "cc", "det", "conj"],
        [2, 2, 2, 2, 5, 2],
    )  # fmt: skip
    (entity,) = reference_structure(prompt, golden_tokenizer(), "syngen", doc).entities
    assert (entity.noun.text, entity.noun.token_indices) == ("red", (2,))
    assert [(m.text, m.token_indices) for m in entity.modifiers] == [("café", ())]


def test_errors_name_the_matter():
    record = golden("syngen/groupings.jsonl")[0]
    with pytest.raises(ValueError, match="'syngen' and 'ebama', not of 'conform'"):
        reference_structure(record["prompt"], golden_tokenizer(), "conform", doc_of(record))
    with pytest.raises(ValueError, match="analysis is of 'a red car and a yellow clock', not of the prompt 'a cat'"):
        reference_structure("a cat", golden_tokenizer(), "syngen", doc_of(record))
    with pytest.raises(ValueError, match="at most 5 tokens, this one has 9"):
        reference_structure(record["prompt"], golden_tokenizer(5), "syngen", doc_of(record))
