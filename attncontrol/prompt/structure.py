"""What is known of a prompt: its entities, their modifiers, and the tokens they own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One word of the prompt.

    `span` is the half-open character range in the prompt (None if it was given by token index only);
    `token_indices` are the text encoder's positions it owns, start of text = 0 (empty until aligned, or where
    the encoder cut the prompt off).
    """

    text: str
    span: tuple[int, int] | None = None
    token_indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entity:
    """A thing the prompt names: its head noun and the words that modify it, in text order."""

    noun: Word
    modifiers: tuple[Word, ...] = ()

    @property
    def word(self) -> Word:
        """The noun, under the name it had in version 0.1."""
        return self.noun

    @property
    def text(self) -> str:
        """Modifiers and noun as one phrase: "red crown"."""
        return " ".join(w.text for w in (*self.modifiers, self.noun))

    @property
    def token_indices(self) -> tuple[int, ...]:
        """All positions of the modifiers and the noun, in that order."""
        return tuple(i for w in (*self.modifiers, self.noun) for i in w.token_indices)


@dataclass(frozen=True)
class LeftOut:
    """A noun of the prompt that is no subject by default, and why: "negated", "describes the picture"."""

    noun: Word
    reason: str


@dataclass(frozen=True)
class PromptStructure:
    """The parsed prompt that every method reads.

    `backend` says where the entities come from: "subjects", "doc", or a spaCy pipeline's name and version.
    `n_tokens` is the number of positions the prompt really fills in the text encoder, start and end of text
    included (0 until aligned). `encoders` holds, for every text encoder, the positions that are words of the prompt,
    in order: 1 .. n_tokens - 2 for CLIP (empty until aligned). `left_out` are nouns that are no subjects.
    """

    prompt: str | None
    entities: tuple[Entity, ...]
    backend: str
    n_tokens: int = 0
    encoders: tuple[tuple[int, ...], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
