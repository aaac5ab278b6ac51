"""Which positions of the text encoder a stretch of the prompt owns. Alignment goes by character offsets."""

from __future__ import annotations

import copy
import dataclasses
import re
import unicodedata
import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from attncontrol.prompt.structure import Entity, PromptStructure, Word

Span = tuple[int, int]


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as its text encoder sees it.

    `pieces` are all tokens, special ones included, `spans` the half-open character range of each in the prompt as
    given (None for special tokens). The encoder keeps the first `n_tokens` positions, the last of them for the end
    of text; without truncation `n_tokens == len(pieces)`. `encoders` holds the positions that are words, per encoder.
    """

    prompt: str
    pieces: tuple[str, ...]
    spans: tuple[Span | None, ...]
    n_tokens: int
    encoders: tuple[tuple[int, ...], ...]

    def positions(self) -> list[int]:
        """The positions that stand for text and that the encoder keeps: 1 .. n_tokens - 2 for CLIP."""
        return [i for i, span in enumerate(self.spans[: self.n_tokens - 1]) if span is not None]

    def token_indices(self, span: Span) -> tuple[int, ...]:
        """The positions whose text overlaps `span`; empty if any of it lies beyond what the encoder keeps."""
        start, end = span
        indices = tuple(i for i, s in enumerate(self.spans) if s is not None and s[0] < end and start < s[1])
        return () if any(i >= self.n_tokens - 1 for i in indices) else indices


def tokenize(tokenizer: Any, prompt: str, special_tokens: bool = True) -> TokenizedPrompt:
    """Tokenizes as diffusers does, textual-inversion tokens of several vectors expanded, and locates every piece.

    Args:
        tokenizer: A transformers tokenizer, fast or slow, that ends its sequences with one end-of-text token, or a
            `TextReader` of several.
        prompt: As given to the pipeline.
        special_tokens: Whether it adds some to what the text has.
    """
    if hasattr(tokenizer, "tokenized"):
        return tokenizer.tokenized(prompt)
    tokenizer = _own(tokenizer)
    text, origin = _expand_textual_inversion(tokenizer, prompt)
    fast = getattr(tokenizer, "is_fast", False)
    special = {} if special_tokens else {"add_special_tokens": False}
    encoded = tokenizer(text, truncation=False, return_offsets_mapping=fast, verbose=False, **special)
    ids = encoded["input_ids"]
    pieces = tuple(tokenizer.convert_ids_to_tokens(ids))
    if fast:
        located = [tuple(span) if span[0] < span[1] else None for span in encoded["offset_mapping"]]
    else:
        located = _consume(tokenizer, ids, pieces, text)
    spans = tuple(s and (origin[s[0]][0], origin[s[1] - 1][1]) for s in located)
    n_tokens = min(len(pieces), tokenizer.model_max_length)
    first = int(bool(spans) and spans[0] is None)  # T5 and its like have no start token
    return TokenizedPrompt(prompt, pieces, spans, n_tokens, (tuple(range(first, n_tokens - 1)),))


def align(structure: PromptStructure, tokenizer: Any) -> PromptStructure:
    """The same structure with every word's token indices, `n_tokens` and `encoders`.

    Words beyond the encoder's length get no indices, and a UserWarning names them.
    """
    tokenized = tokenize(tokenizer, structure.prompt)
    lost: list[str] = []

    def aligned(word: Word) -> Word:
        indices = tokenized.token_indices(word.span)
        if not indices:
            lost.append(word.text)
        return dataclasses.replace(word, token_indices=indices)

    entities = tuple(Entity(aligned(e.noun), tuple(map(aligned, e.modifiers))) for e in structure.entities)
    if lost:
        warnings.warn(
            f"the prompt has {len(tokenized.pieces)} tokens, the text encoder keeps {tokenized.n_tokens}: "
            f"it does not see {', '.join(lost)}",
            stacklevel=2,
        )
    return dataclasses.replace(structure, entities=entities, n_tokens=tokenized.n_tokens, encoders=tokenized.encoders)


def check_second_tokenizer(structure: PromptStructure, first: Any, second: Any) -> None:
    """Raises ValueError if a second text encoder over the same positions has other text at a word's tokens."""
    here, there = tokenize(first, structure.prompt), tokenize(second, structure.prompt)
    for entity in structure.entities:
        for word in (*entity.modifiers, entity.noun):
            if any(here.spans[i] != dict(enumerate(there.spans)).get(i) for i in word.token_indices):
                raise ValueError(
                    f"the two text encoders have {word.text!r} at different positions: their tokenizers differ. A "
                    "textual inversion must be loaded into both"
                )


_copies: WeakKeyDictionary[Any, tuple[dict[str, int], Any]] = WeakKeyDictionary()


def _own(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer, made once and again when tokens are added to it; a slow one itself.

    Fast tokenizers keep padding and truncation as state: reading with the pipeline's would spoil what another thread
    encodes meanwhile.
    """
    if not getattr(tokenizer, "is_fast", False):
        return tokenizer
    added = tokenizer.added_tokens_encoder
    known, own = _copies.get(tokenizer, ({}, None))
    if own is None or known != added:
        own = copy.deepcopy(tokenizer)
        _copies[tokenizer] = (added, own)
    return own


def _expand_textual_inversion(tokenizer: Any, prompt: str) -> tuple[str, list[Span]]:
    """Replace an embedding of several vectors by its tokens ("<toy>" -> "<toy> <toy>_1"), as diffusers does.

    Also returns, for every character of the new text, the range of the prompt it stands for.
    """
    origin = [(i, i + 1) for i in range(len(prompt))]
    added = getattr(tokenizer, "added_tokens_encoder", {})
    if not any(f"{token}_1" in added for token in added):
        return prompt, origin
    for token in sorted(set(tokenizer.tokenize(prompt)) & set(added)):
        vectors = [token]
        while f"{token}_{len(vectors)}" in added:
            vectors.append(f"{token}_{len(vectors)}")
        replacement, start = " ".join(vectors), prompt.find(token)
        while len(vectors) > 1 and start >= 0:
            end = start + len(token)
            origin[start:end] = [(origin[start][0], origin[end - 1][1])] * len(replacement)
            prompt = prompt[:start] + replacement + prompt[end:]
            start = prompt.find(token, start + len(replacement))
    return prompt, origin


def _consume(tokenizer: Any, ids: list[int], pieces: tuple[str, ...], text: str) -> list[Span | None]:
    """Spans of a slow tokenizer's pieces: eat the text, lower-cased and without spaces, byte by byte."""
    left: list[tuple[int, Span]] = []  # (byte, the character it belongs to)
    for match in re.finditer(r"\S[\u0300-\u036f]*", text):
        composed = unicodedata.normalize("NFC", match[0].lower())
        left += [(byte, match.span()) for byte in composed.encode()]
    content = bytes(byte for byte, _ in left)
    special = set(tokenizer.all_special_ids)
    spans: list[Span | None] = []
    at = 0
    for token_id, piece in zip(ids, pieces, strict=True):
        forms = [] if token_id in special else _piece_bytes(piece)
        eaten = next((form for form in forms if content.startswith(form, at)), None)
        if eaten is None:  # the tokenizer dropped or rewrote something here: go on where the piece is found next
            eaten = next((form for form in forms if form in content[at:]), b"")
        found = content.find(eaten, at)
        spans.append((left[found][1][0], left[found + len(eaten) - 1][1][1]) if eaten else None)
        at = found + len(eaten)
    return spans


def _piece_bytes(piece: str) -> list[bytes]:
    """What text a piece without its word mark can stand for: bytes spelled in byte-level letters, or itself."""
    piece = piece.removesuffix("</w>").lstrip("\u2581\u0120")
    letters = _byte_letters()
    spelled = [bytes(letters[letter] for letter in piece)] if all(letter in letters for letter in piece) else []
    return [form for form in (*spelled, piece.lower().encode()) if form]


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte: printable Latin-1 as it is, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
