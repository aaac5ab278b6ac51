"""Subjects named by the caller: words or phrases of the prompt, token indices, or groups of these."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from typing import Any

from attncontrol.prompt.align import Span, TokenizedPrompt, tokenize
from attncontrol.prompt.structure import Entity, PromptStructure, Word

FUNCTION_WORDS = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "some", "any", "of", "in", "on", "at", "to", "by", "for"}
    | {"from", "with", "and", "or", "near", "is", "are"}
)
WORD = re.compile(r"<[^\s<>]+>|\w+(?:['’-]\w+)*|[^\w\s]")


def resolve_subjects(
    subjects: Sequence[Any],
    prompt: str | None,
    tokenizer: Any,
    parse: Callable[[str], PromptStructure] | None = None,
    length: int | None = None,
    text: Sequence[slice] = (slice(1, -1),),
) -> PromptStructure:
    """Finds the entities that the caller names, in the order given.

    Args:
        subjects: Each is a word of the prompt ("cat", "cat#2" for its second occurrence), a phrase (its head noun is
            the one `parse` finds, else its last word; its other content words are modifiers), a token index (start of
            text = 0), a list of token indices that are one subject together, or a list of words, token indices and
            lists of these, modifiers first and the noun last. A word named again means its next occurrence.
        prompt: None where only embeddings are known; then only token indices are possible.
        tokenizer: Of the text encoder.
        parse: Parses a prompt, to find the head nouns of phrases.
        length: The positions of embeddings.
        text: Those that each text encoder has for words.

    Raises:
        ValueError: For what is not in the prompt, is cut off by the text encoder, or is named twice.
    """
    if isinstance(subjects, str) or not isinstance(subjects, Sequence):
        raise ValueError(f"subjects must be a list of words, phrases or token indices, not {subjects!r}")
    if not subjects:
        raise ValueError("subjects is empty: name at least one, or leave it out to have the nouns of the prompt found")
    tokenized = tokenize(tokenizer, prompt) if prompt is not None else None
    n_tokens = tokenized.n_tokens if tokenized else length or tokenizer.model_max_length
    encoders = tokenized.encoders if tokenized else tuple(tuple(range(*span.indices(n_tokens))) for span in text)
    resolver = _Resolver(tokenized, n_tokens, encoders, parse)
    entities = tuple(resolver.entity(subject) for subject in subjects)
    return PromptStructure(prompt, entities, "subjects", n_tokens, encoders)


@dataclass
class _Resolver:
    tokenized: TokenizedPrompt | None
    n_tokens: int
    encoders: tuple[tuple[int, ...], ...]
    parse: Callable[[str], PromptStructure] | None
    nouns: dict[int, str] = field(default_factory=dict)  # token index -> the subject whose noun it is

    def entity(self, subject: Any) -> Entity:
        if isinstance(subject, str):
            entity = self._phrase(subject)
        elif isinstance(subject, list | tuple):
            entity = self._group(subject)
        else:
            entity = Entity(self._tokens([subject]))
        self._claim(entity, str(subject))
        return entity

    def _claim(self, entity: Entity, name: str) -> None:
        if len(set(entity.token_indices)) < len(entity.token_indices):
            raise ValueError(f"subject {name!r} names a token twice: its tokens are {list(entity.token_indices)}")
        for index in entity.noun.token_indices:
            if index in self.nouns:
                raise ValueError(
                    f"token {index} is the noun of two subjects, {self.nouns[index]!r} and {name!r}; "
                    "write word#2 for the second occurrence of a word"
                )
        self.nouns |= dict.fromkeys(entity.noun.token_indices, name)

    def _phrase(self, phrase: str) -> Entity:
        spans = self._occurrences(phrase)
        one_word = not re.search(r"\s", phrase.strip())
        for span in spans:
            entity = Entity(self._word(span)) if one_word else self._split(span)
            if not self.nouns.keys() & set(entity.noun.token_indices):
                return entity
        raise ValueError(
            f"{phrase!r} is named more often than it occurs in the prompt ({len(spans)} times), counting other "
            "subjects with the same noun"
        )

    def _split(self, span: Span) -> Entity:
        """A phrase's head noun and modifiers."""
        words = [(m.start() + span[0], m.end() + span[0]) for m in WORD.finditer(self._slice(span))]
        content = [w for w in words if self._slice(w).lower() not in FUNCTION_WORDS and self._slice(w)[-1].isalnum()]
        content = content or words
        parsed = self.parse(self.tokenized.prompt).entities if self.parse else ()
        heads = [e.noun.span for e in parsed if span[0] <= e.noun.span[0] and e.noun.span[1] <= span[1]]
        for first, second in pairwise(heads):
            if re.search(r",|&|\b(and|or)\b", self._slice((first[1], second[0]))):
                raise ValueError(
                    f"the phrase {self._slice(span)!r} names several things, {self._slice(first)!r} and "
                    f"{self._slice(second)!r}: list them as subjects of their own"
                )
        head = heads[0] if heads else content[-1]
        return Entity(self._word(head), tuple(self._word(w) for w in content if w[1] <= head[0] or head[1] <= w[0]))

    def _group(self, group: Sequence[Any]) -> Entity:
        if not group:
            raise ValueError("a subject is an empty list: give token indices, or modifiers and a noun")
        if not any(isinstance(item, str | list | tuple) for item in group):
            return Entity(self._tokens(group))
        *modifiers, noun = group
        if isinstance(noun, str):
            words = (self._word(span) for span in self._occurrences(noun))
            word = next((w for w in words if not self.nouns.keys() & set(w.token_indices)), None)
            if word is None:
                raise ValueError(f"every {noun!r} of the prompt is already the noun of a subject")
        else:
            word = self._tokens(noun)
        return Entity(word, tuple(self._modifier(m, word) for m in modifiers))

    def _modifier(self, modifier: Any, noun: Word) -> Word:
        """A modifier of a group: of several occurrences of a word the last before the noun, else the next after."""
        if not isinstance(modifier, str):
            return self._tokens(modifier)
        words = [self._word(span) for span in self._occurrences(modifier)]
        before = [w for w in words if w.token_indices[-1] < noun.token_indices[0]]
        return before[-1] if before else words[0]

    def _tokens(self, indices: Any) -> Word:
        """The word that owns the given token indices."""
        indices = list(indices) if isinstance(indices, list | tuple) else [indices]
        if not indices:
            raise ValueError("a subject is an empty list: give token indices, or modifiers and a noun")
        allowed = self.tokenized.positions() if self.tokenized else [i for own in self.encoders for i in own]
        for index in indices:
            if not isinstance(index, Integral) or isinstance(index, bool):
                raise ValueError(f"a subject must be a word, a token index or a list of these, not {index!r}")
            if index not in allowed:
                raise ValueError(f"token index {index} is outside the prompt's words: {self._listing(allowed)}")
        indices = tuple(sorted(int(i) for i in indices))
        if self.tokenized is None:
            return Word(" ".join(f"#{i}" for i in indices), None, indices)
        spans = [self.tokenized.spans[i] for i in indices]
        text = " ".join(dict.fromkeys(self._slice(s) for s in spans))
        contiguous = indices[-1] - indices[0] == len(indices) - 1
        span = (spans[0][0], spans[-1][1]) if contiguous else None
        return Word(self._slice(span) if span else text, span, indices)

    def _listing(self, allowed: list[int]) -> str:
        if not allowed:
            return "the prompt has none"
        if self.tokenized is None:
            return f"indices run from {allowed[0]} to {allowed[-1]}"
        return ", ".join(f"{i} {self._slice(self.tokenized.spans[i])!r}" for i in allowed)

    def _occurrences(self, text: str) -> list[Span]:
        """Where a word or phrase stands in the prompt; only the n-th occurrence for "word#n"."""
        if self.tokenized is None:
            raise ValueError(
                f"subject {text!r}: the prompt is given as embeddings, so subjects must be token indices "
                "(start of text = 0), not words"
            )
        spans = find_words(self.tokenized.prompt, text)
        numbered = None if spans else re.fullmatch(r"(.+)#(\d+)", text.strip())
        if numbered:
            text, number = numbered[1], int(numbered[2])
            spans = find_words(self.tokenized.prompt, text)
            if spans and not 1 <= number <= len(spans):
                raise ValueError(f"there is no {numbered[0]!r}: the prompt has {text!r} {len(spans)} times")
            spans = spans[number - 1 : number]
        if not spans:
            raise ValueError(self._unknown(text))
        return spans

    def _unknown(self, text: str) -> str:
        words = list(dict.fromkeys(m[0] for m in WORD.finditer(self.tokenized.prompt) if m[0][-1] not in ".,;:!?"))
        lowered = {w.lower(): w for w in words}
        close = difflib.get_close_matches(text.lower(), lowered, n=1, cutoff=0.5)
        hint = f", did you mean {lowered[close[0]]!r}?" if close else "."
        return f"{text!r} is not in the prompt{hint} Its words are: {', '.join(words) or 'none'}"

    def _slice(self, span: Span) -> str:
        return self.tokenized.prompt[span[0] : span[1]]

    def _word(self, span: Span) -> Word:
        indices = self.tokenized.token_indices(span)
        if not indices:
            raise ValueError(
                f"{self._slice(span)!r} lies beyond the {self.n_tokens} tokens that the text encoder keeps of this "
                f"prompt ({len(self.tokenized.pieces)} tokens): shorten the prompt or leave this subject out"
            )
        return Word(self._slice(span), span, indices)


def find_words(prompt: str, text: str) -> list[Span]:
    """Where a word or a run of words stands in the prompt, in any case and spacing.

    Whole words come first; only if there are none, parts of hyphenated words count ("eyed" in "blue-eyed").
    """
    words = text.split()
    if not words:
        return []
    body = r"\s+".join(re.escape(word) for word in words)
    for edge in (r"[\w-]", r"\w"):
        before = f"(?<!{edge})" if re.match(r"\w", words[0]) else ""
        after = f"(?!{edge})" if re.search(r"\w$", words[-1]) else ""
        spans = [m.span() for m in re.finditer(before + body + after, prompt, re.IGNORECASE)]
        if spans:
            return spans
    return []
