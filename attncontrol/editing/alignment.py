"""What changed between two prompts, and which token positions of the first each position of the second stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attncontrol.prompt.align import TokenizedPrompt, tokenize
from attncontrol.prompt.dependencies import DependencyParse
from attncontrol.prompt.entities import NOUNS
from attncontrol.prompt.parser import analyse

ARTICLES = {"an": "a"}  # "an apple" -> "a pear" changes one word


@dataclass(frozen=True)
class Change:
    """Words of the source prompt and those that take their place; one side is empty for insertions and deletions."""

    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def text(self) -> str:
        """The change as one reads it: "red -> blue", "+ big", "- big"."""
        before, after = " ".join(self.before), " ".join(self.after)
        if not before:
            return f"+ {after}"
        return f"{before} -> {after}" if after else f"- {before}"


@dataclass(frozen=True)
class PromptAlignment:
    """How the attention of the source prompt is handed on to the edited one.

    `matrix` [positions, positions] turns columns of the source into columns of the edit: `source @ matrix`; every
    column sums to 1, or to 0 for an inserted word. `weights` [positions] says how much of it a column takes: 1, or 0
    for an inserted word, which keeps its own attention.
    """

    changes: tuple[Change, ...]
    matrix: Tensor
    weights: Tensor


def align_sequences(source: Sequence[Any], target: Sequence[Any]) -> list[int]:
    """For every entry of `target` the equal one of `source` in a longest common order, -1 where there is none.

    Global alignment with match +1 and gaps 0; on a tie an entry of `target` stays alone first, then one of `source`.
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            best[i][j] = max(best[i][j - 1], best[i - 1][j], best[i - 1][j - 1] + (1 if a == b else -1))
    found = [-1] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            found[j] = i
    return found


def align_prompts(source: str, target: str, tokenizer: Any, length: int, parser: Any = None) -> PromptAlignment:
    """Aligns two prompts word by word; a replaced word hands its attention to what stands in its place.

    Words are told apart by the parser, positions by the tokenizer, so words may have several pieces and several
    words may replace one. `length` is the number of the text encoder's positions. Raises ValueError if the encoder
    cuts off a word that changed.
    """
    parses = [analyse(prompt, parser)[0] for prompt in (source, target)]
    tokens = [tokenize(tokenizer, prompt) for prompt in (source, target)]
    matrix = _special_positions(tokens, length)
    words = [[_key(word) for word in parse.words] for parse in parses]
    changes = []
    for before, after in _blocks(*words):
        changed = [words[0][i] for i in before] != [words[1][i] for i in after]
        if changed:
            changes.append(Change(*(_texts(p, w) for p, w in zip(parses, (before, after), strict=True))))
        for old, new in _pairs(parses, before, after):
            positions = [
                [p for word in found for p in _positions(token, parse, word, changed)]
                for token, parse, found in zip(tokens, parses, (old, new), strict=True)
            ]
            _hand_on(matrix, *positions)
        for word in after if changed else ():  # an inserted one is in no pair
            _positions(tokens[1], parses[1], word, needed=True)
    return PromptAlignment(tuple(changes), matrix, matrix.sum(0).clamp(max=1))


def _key(word: str) -> str:
    return ARTICLES.get(word.lower(), word.lower())


def _texts(parse: DependencyParse, words: Sequence[int]) -> tuple[str, ...]:
    return tuple(parse.words[i] for i in words)


def _blocks(source: Sequence[str], target: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Both prompts cut into pairs of word numbers: equal words one by one, and what differs between them."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    matches = [(a, b) for b, a in enumerate(align_sequences(source, target)) if a >= 0]
    for a, b in (*matches, (len(source), len(target))):
        if i < a or j < b:
            blocks.append((list(range(i, a)), list(range(j, b))))
        if a < len(source):
            blocks.append(([a], [b]))
        i, j = a + 1, b + 1
    return blocks


def _pairs(
    parses: Sequence[DependencyParse], before: list[int], after: list[int]
) -> list[tuple[list[int], list[int]]]:
    """Which words of a block stand for which: one for one, or else all of the new ones for the old nouns."""
    if len(before) == len(after):
        return [([a], [b]) for a, b in zip(before, after, strict=True)]
    if not before or not after:
        return []
    nouns = [i for i in before if parses[0].pos[i] in NOUNS]
    to_noun = any(parses[1].pos[i] in NOUNS for i in after)
    return [(nouns if nouns and to_noun else before, after)]


def _positions(tokens: TokenizedPrompt, parse: DependencyParse, word: int, needed: bool) -> tuple[int, ...]:
    positions = tokens.token_indices(parse.spans[word])
    if needed and not positions:
        raise ValueError(
            f"the changed word {parse.words[word]!r} of {parse.prompt!r} lies beyond the {tokens.n_tokens} positions "
            "that the text encoder reads: shorten the prompt"
        )
    return positions


def _hand_on(matrix: Tensor, old: list[int], new: list[int]) -> None:
    """Piece by piece if there are as many, else every new piece takes the mean of the old ones."""
    if len(old) == len(new):
        matrix[old, new] = 1
    elif old:
        for position in new:
            matrix[old, position] = 1 / len(old)


def _special_positions(tokens: Sequence[TokenizedPrompt], length: int) -> Tensor:
    """A matrix that hands on the start of text, and the end of text and padding counted from where the text ends."""
    matrix = torch.zeros(length, length)
    matrix[0, 0] = 1
    old, new = (token.n_tokens - 1 for token in tokens)
    for i in range(length - new):
        matrix[min(old + i, length - 1), new + i] = 1
    return matrix
