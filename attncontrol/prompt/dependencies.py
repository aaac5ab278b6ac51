"""A dependency parse of a prompt, from whatever spaCy pipeline or caller made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attncontrol.prompt.align import Span


@dataclass(frozen=True)
class DependencyParse:
    """Words of a prompt with character spans, universal parts of speech, ClearNLP labels and heads.

    A root is its own head. Labels are those of spaCy's English pipelines (amod, compound, conj, acomp, relcl, ...).
    """

    prompt: str
    spans: tuple[Span, ...]
    pos: tuple[str, ...]
    labels: tuple[str, ...]
    heads: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.spans), len(self.pos), len(self.labels), len(self.heads)}
        if len(sizes) > 1:
            raise ValueError(f"words, pos, labels and heads must be of one length, got {sorted(sizes)}")
        if any(not 0 <= head < len(self.spans) for head in self.heads):
            raise ValueError(f"heads must be word numbers from 0 to {len(self.spans) - 1}, got {self.heads}")

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def words(self) -> list[str]:
        """The words as written."""
        return [self.prompt[start:end] for start, end in self.spans]

    @cached_property
    def children(self) -> list[list[int]]:
        """For every word its direct dependents in text order."""
        found: list[list[int]] = [[] for _ in self.spans]
        for i, head in enumerate(self.heads):
            if head != i:
                found[head].append(i)
        return found

    @classmethod
    def from_doc(cls, doc: Iterable[Any]) -> DependencyParse:
        """From a spaCy Doc, or any sequence of tokens with text, idx, i, pos_, dep_ and head."""
        tokens = list(doc)
        prompt = getattr(doc, "text", None)
        if prompt is None:
            raise ValueError("the doc must have a text, as a spaCy Doc has")
        return cls(
            prompt,
            tuple((token.idx, token.idx + len(token.text)) for token in tokens),
            tuple(token.pos_ for token in tokens),
            tuple(token.dep_ for token in tokens),
            tuple(token.head.i for token in tokens),
        )

    @classmethod
    def from_words(
        cls, prompt: str, words: Sequence[str], pos: Sequence[str], labels: Sequence[str], heads: Sequence[int]
    ) -> DependencyParse:
        """From lists over the words, which must stand in the prompt one after the other."""
        spans, at = [], 0
        for word in words:
            start = prompt.find(word, at)
            if start < 0:
                raise ValueError(f"word {word!r} is not in {prompt!r} after character {at}")
            at = start + len(word)
            spans.append((start, at))
        return cls(prompt, tuple(spans), tuple(pos), tuple(labels), tuple(heads))

    def join_hyphens(self) -> DependencyParse:
        """The same parse with words that hyphens join made one: pipelines like en_core_web split "sleepy-eyed".

        The joined word takes the part of speech, label and head of its topmost part.
        """
        group = self._hyphen_groups()
        members: list[list[int]] = [[] for _ in set(group)]
        for i, number in enumerate(group):
            members[number].append(i)
        tops = [next((i for i in m if self.heads[i] == i or group[self.heads[i]] != group[i]), m[-1]) for m in members]
        return DependencyParse(
            self.prompt,
            tuple((self.spans[m[0]][0], self.spans[m[-1]][1]) for m in members),
            tuple(self.pos[top] for top in tops),
            tuple(self.labels[top] for top in tops),
            tuple(group[self.heads[top]] for top in tops),
        )

    def _hyphen_groups(self) -> list[int]:
        """For every word the number of the hyphenated word it belongs to."""
        words, group = self.words, []
        for i, (start, end) in enumerate(self.spans):
            touches = i > 0 and self.spans[i - 1][1] == start
            inside = i + 1 < len(self) and self.spans[i + 1][0] == end
            glued = touches and (
                (words[i] == "-" and inside) or (words[i - 1] == "-" and i > 1 and group[-1] == group[-2])
            )
            group.append(0 if not group else group[-1] + (not glued))
        return group
