"""The plain words of a prompt: what other tools write between them is blanked, and no parser takes it for words."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attncontrol.prompt.align import Span
from attncontrol.prompt.structure import Entity, PromptStructure, Word

WEIGHTS = (
    "for weights give prompt_embeds made by compel, and to attach() the plain words as prompt=, or token indices as "
    "subjects"
)
NAMES = r"\b[A-Za-z]"  # of one letter are languages and grades, as in "C++" and "A+"; no thing to be weighted is
NOUN = "cat"  # stands for a learned token where the parser reads


@dataclass(frozen=True)
class Syntax:
    """One notation: `pattern`, what the parser reads instead of a match, and what the user can do."""

    pattern: re.Pattern[str]
    advice: str
    instead: str | Callable[[re.Match[str]], str] = ""


def _content(match: re.Match[str]) -> str:
    """A bracket's words where they stand; its brackets, numbers and separators give way."""
    inside = re.sub(r"\d*\$\$|:\s*[-+]?\d*\.?\d+\s*$", lambda m: " " * len(m[0]), match[0][1:-1])
    return " " + re.sub(r"[|:]", ",", inside) + " "


# In this order: what an earlier one has blanked is not read again.
SYNTAXES = (
    Syntax(re.compile(r"<[\w.-]+:[^<>]*>"), "load a LoRA with pipe.load_lora_weights()"),
    Syntax(re.compile(r"<[^\s<>:]+>"), "load a learned token with pipe.load_textual_inversion()"),
    Syntax(re.compile(r"\bembedding:[\w.-]+"), "load a learned token with pipe.load_textual_inversion()"),
    Syntax(re.compile(r"__[\w/*-]+?__"), "write a prompt for each choice of a wildcard"),
    Syntax(
        re.compile(r"(?<!\S)--[a-z]+(?:[ =]+(?!--)[^\s-](?:(?!\s--).)*)?"), "give --options as arguments of the call"
    ),
    Syntax(re.compile(r"\)?\.(?:and|blend|swap)\([^()]*\)"), WEIGHTS),
    Syntax(re.compile(r"\\[()\[\]{}]"), "write brackets without a backslash", ","),
    Syntax(re.compile(r"\{[^{}]*\|[^{}]*\}"), "write a prompt for each choice of a wildcard", _content),
    Syntax(re.compile(r"\[[^\[\]]*\]|\{[^{}]*\}"), WEIGHTS, _content),
    Syntax(re.compile(r"(?<=\))(?:\d*\.\d+|\d+|[+-]+)(?=[\s,.;)\]]|$)"), WEIGHTS),
    Syntax(re.compile(r"\([^()]*:\s*[-+]?\d*\.?\d+\s*\)"), WEIGHTS, _content),
    Syntax(re.compile(r"\(\s*\([^()]*\)[^()]*\)"), WEIGHTS, lambda match: re.sub(r"[()]", " ", match[0])),
    Syntax(re.compile(r"::\s*-?\d*\.?\d*"), WEIGHTS, ","),
    Syntax(re.compile(r"(?<=[^\W\d]):\d*\.\d+\b"), WEIGHTS),
    Syntax(re.compile(rf"(?<=[^\W\d])(?<!{NAMES})(?:\++|-{{2,}})(?=[\s,.;)]|$)"), WEIGHTS),
)
KEYWORDS = Syntax(re.compile(r"\b(?:BREAK|AND|ADDCOMM|ADDBASE|ADDCOL|ADDROW)\b"), "join the parts with commas", ",")


def plain_words(prompt: str, learned: Sequence[Span] = ()) -> tuple[str, dict[str, str]]:
    """The prompt with the syntax of other tools blanked, of equal length, and what was found with what to do about it.

    `learned` are the spans of tokens that the tokenizer has learned; a noun stands in their place.
    """
    found: dict[str, str] = {}
    text = prompt
    for start, end in learned:
        text = text[:start] + NOUN[: end - start].ljust(end - start) + text[end:]
    keywords = (KEYWORDS,) if any(c.islower() for c in prompt) else ()  # an emphatic prompt is in capitals throughout
    for syntax in (*SYNTAXES, *keywords):

        def blanked(match: re.Match[str], syntax: Syntax = syntax) -> str:
            found[prompt[match.start() : match.end()].strip()] = syntax.advice
            instead = syntax.instead if isinstance(syntax.instead, str) else syntax.instead(match)
            return instead.ljust(len(match[0]))

        text = syntax.pattern.sub(blanked, text)
    return text, found


def warn_of_syntax(found: dict[str, str]) -> None:
    """One warning for everything in the prompt that means something to other tools only."""
    if found:
        pieces = ", ".join(repr(piece) for piece in list(found)[:5])
        advice = "; ".join(dict.fromkeys(found.values()))
        warnings.warn(f"diffusers reads {pieces} as plain text, not as other tools do: {advice}", stacklevel=4)


def learned_tokens(prompt: str, tokenizer: Any) -> list[Span]:
    """Where the prompt has tokens that were added to the tokenizer, as textual inversion does."""
    special = set(getattr(tokenizer, "all_special_tokens", ()))
    added = sorted((t for t in getattr(tokenizer, "added_tokens_encoder", {}) if t not in special), key=len)
    names = [name for name in reversed(added) if len(name) > 1]
    if not names:
        return []
    pattern = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names)
    return [match.span() for match in re.finditer(pattern, prompt)]


def as_written(structure: PromptStructure, prompt: str, learned: Sequence[Span]) -> PromptStructure:
    """A structure of plain words as one of the prompt itself, learned tokens whole."""

    def word(read: Word) -> Word:
        start, end = next((span for span in learned if span[0] <= read.span[0] < span[1]), read.span)
        return dataclasses.replace(read, text=prompt[start:end], span=(start, end))

    return dataclasses.replace(
        structure,
        prompt=prompt,
        entities=tuple(Entity(word(e.noun), tuple(map(word, e.modifiers))) for e in structure.entities),
        left_out=tuple(dataclasses.replace(item, noun=word(item.noun)) for item in structure.left_out),
    )
