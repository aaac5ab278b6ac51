"""From a prompt to what the methods read: its entities, their modifiers and the tokens these own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attncontrol.prompt.align import align
from attncontrol.prompt.content import drawn
from attncontrol.prompt.entities import NON_VISUAL_NOUNS, extract_entities
from attncontrol.prompt.language import warn_of_other_language
from attncontrol.prompt.parser import analyse, load_prompt_parser
from attncontrol.prompt.plain import as_written, learned_tokens, plain_words, warn_of_syntax
from attncontrol.prompt.structure import Entity, LeftOut, PromptStructure, Word
from attncontrol.prompt.subjects import resolve_subjects

__all__ = [
    "NON_VISUAL_NOUNS",
    "Entity",
    "LeftOut",
    "PromptStructure",
    "Word",
    "align",
    "load_prompt_parser",
    "parse_prompt",
    "resolve_subjects",
    "structure_of",
]


def parse_prompt(prompt: str, parser: Any = None, ignore_nouns: Iterable[str] = ()) -> PromptStructure:
    """Finds the entities and modifiers of a prompt, not yet aligned to tokens (`extract_entities`: what counts).

    Args:
        prompt: A description in English.
        parser: None for the best installed one, "embedded", a spaCy pipeline or its name, or a Doc of this prompt (see
            `analyse`); `backend` of the result names it.
        ignore_nouns: Nouns that name nothing to be seen, such as `NON_VISUAL_NOUNS`.

    Returns:
        The structure; its words have no token indices yet.

    Raises:
        ValueError: For a parser that cannot be used.
    """
    parse, backend = analyse(prompt, parser)
    return PromptStructure(prompt, extract_entities(parse, ignore_nouns), backend)


def structure_of(
    prompt: str | None,
    tokenizer: Any,
    subjects: Sequence[Any] | PromptStructure | None = None,
    parser: Any = None,
) -> PromptStructure:
    """Finds the entities and modifiers of a prompt with their token indices.

    Args:
        prompt: None for one that is given as embeddings.
        tokenizer: Of the text encoder.
        subjects: Exactly the entities that are wanted (see `resolve_subjects`; a finished structure of this prompt is
            taken as it is). None for all that the parser finds and that are to be drawn (see `drawn`).
        parser: See `parse_prompt`.

    Returns:
        The structure. Parsed words that the text encoder cuts off are left out, with a warning that names them.

    Raises:
        ValueError: For subjects that the text encoder cuts off, and for embeddings without subjects.
    """
    if isinstance(subjects, PromptStructure):
        if subjects.prompt != prompt:
            raise ValueError(f"the given structure is of {subjects.prompt!r}, not of the prompt {prompt!r}")
        return subjects
    learned = learned_tokens(prompt, tokenizer) if prompt is not None else []
    plain, syntax = plain_words(prompt or "", learned)
    warn_of_syntax(syntax)
    if subjects is not None:
        return resolve_subjects(subjects, prompt, tokenizer, lambda text: parse_prompt(text, parser))
    if prompt is None:
        raise ValueError(
            "the prompt is given as embeddings, which cannot be parsed: give subjects as token indices "
            "(start of text = 0), for instance subjects=[2, 5]"
        )
    analysed = parser is not None and not isinstance(parser, str | Path) and not callable(parser)
    if not analysed:
        warn_of_other_language(plain)
    found = drawn(parse_prompt(prompt if analysed else plain, parser))
    structure = align(as_written(found, prompt, learned), tokenizer)
    entities = tuple(
        Entity(entity.noun, tuple(word for word in entity.modifiers if word.token_indices))
        for entity in structure.entities
        if entity.noun.token_indices
    )
    return dataclasses.replace(structure, entities=entities)
