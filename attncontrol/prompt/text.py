"""Text encoders whose states are attention keys: which position of the keys stands for which stretch of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attncontrol.prompt.align import Span, TokenizedPrompt, tokenize

Render = Callable[[str], tuple[str, int]]
MARK = "attncontrol-prompt"  # where a chat template puts a prompt


def as_given(prompt: str) -> tuple[str, int]:
    """The prompt itself."""
    return prompt, 0


def lowered(prompt: str) -> tuple[str, int]:
    """The prompt as pipelines that clean captions read it: lower case, without spaces around it."""
    return prompt.lower().strip(), len(prompt) - len(prompt.lstrip())


def template(text: str) -> Render:
    """The prompt inside a chat template, in place of its "{}"."""
    before = text.partition("{}")[0]
    return lambda prompt: (text.replace("{}", prompt, 1), -len(before))


def behind(beginning: str, render: Render = as_given) -> Render:
    """The prompt, itself rendered, behind a fixed beginning."""

    def rendered(prompt: str) -> tuple[str, int]:
        text, shift = render(prompt)
        return beginning + text, shift - len(beginning)

    return rendered


def chat(render: Callable[[str], str]) -> Render:
    """The prompt inside a tokenizer's chat template, which `render` fills in.

    Raises:
        ValueError: For a prompt that the template changes.
    """

    def rendered(prompt: str) -> tuple[str, int]:
        empty, text = render(MARK), render(prompt)
        before, stripped = empty.index(MARK), prompt.strip()
        if before and prompt.startswith(empty[:before]):
            raise ValueError(f"the prompt {prompt!r} is in the chat template already: give it as it was written")
        if not stripped or not text.startswith(stripped, before):
            raise ValueError(f"the chat template of this model's tokenizer changes the prompt {prompt!r}")
        kept_spaces = text.startswith(prompt, before)
        return text, -before if kept_spaces else prompt.index(stripped) - before

    return rendered


def user_turn(tokenizer: Any, **settings: Any) -> Render:
    """The prompt as what a user says in the tokenizer's chat template, up to where the answer begins."""

    def rendered(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **settings)

    return chat(rendered)


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder's share of the text keys.

    Args:
        tokenizer: A fast transformers tokenizer.
        length: Most positions that are kept.
        first: Position of its first state among the text keys.
        drop: How many leading states the pipeline drops.
        render: Gives the text that is really read and what to add to an offset in it to get one in the prompt.
        fills_left: Whether what is free of `length` lies in front of the text.
        special_tokens: Whether the tokenizer adds special tokens to the text.
    """

    tokenizer: Any
    length: int
    first: int = 0
    drop: int = 0
    render: Render = as_given
    fills_left: bool = False
    special_tokens: bool = True

    def read(self, prompt: str) -> tuple[list[str], list[Span | None]]:
        """All pieces it keeps or cuts off, without dropped ones, and the stretch of the prompt each stands for."""
        text, shift = self.render(prompt)
        tokenized = tokenize(self.tokenizer, text, self.special_tokens)
        pieces, spans = list(tokenized.pieces[self.drop :]), list(tokenized.spans[self.drop :])
        spans = [span and _inside(text, span, shift, len(prompt)) for span in spans]
        if spans and spans[-1] is not None:  # no end of text: padding or nothing follows
            pieces, spans = [*pieces, ""], [*spans, None]
        free = max(self.length - len(pieces), 0) if self.fills_left else 0
        return [""] * free + pieces, [None] * free + spans

    def needed(self, prompt: str) -> int:
        """How many positions it takes to keep all words; where it is filled on the left, the whole text."""
        pieces, spans = self.read(prompt)
        words = [i for i, span in enumerate(spans) if span is not None]
        if self.fills_left:
            return sum(bool(piece) for piece in pieces)
        return words[-1] + 1 if words else 0


@dataclass(frozen=True)
class TextReader:
    """Finds the words of a prompt in several text encoders, one behind the other among the text keys."""

    encoders: tuple[TextEncoder, ...]

    @property
    def model_max_length(self) -> int:
        """Positions of all text keys."""
        return self.encoders[-1].first + self.encoders[-1].length

    def tokenized(self, prompt: str) -> TokenizedPrompt:
        """The prompt as the text keys show it; what an encoder cuts off is left to those behind it."""
        pieces: list[str] = []
        spans: list[Span | None] = []
        words = []
        for encoder in self.encoders:
            fill = encoder.first - len(pieces)
            pieces, spans = [*pieces, *[""] * fill][: encoder.first], [*spans, *[None] * fill][: encoder.first]
            own, where = encoder.read(prompt)
            kept = min(len(own), encoder.length) - (1 if len(own) > encoder.length else 0)
            if encoder is not self.encoders[-1]:
                where = [*where[:kept], *[None] * (len(where) - kept)]
            words.append(tuple(encoder.first + i for i, span in enumerate(where[:kept]) if span is not None))
            pieces, spans = pieces + own, spans + where
        n_tokens = min(len(pieces), self.model_max_length)
        return TokenizedPrompt(prompt, tuple(pieces), tuple(spans), n_tokens, tuple(words))


def _inside(text: str, span: Span, shift: int, length: int) -> Span | None:
    """A piece's span in the prompt, without spaces around it; None if it stands for none of the prompt's text."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    start, end = max(start + shift, 0), min(end + shift, length)
    return (start, end) if start < end else None
