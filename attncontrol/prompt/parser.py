"""Which parser reads the prompt: the embedded one, a trained spaCy pipeline, or an analysis the caller brings."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from attncontrol.prompt.align import Span
from attncontrol.prompt.dependencies import DependencyParse

PREFERRED = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm")
EMBEDDED = "embedded"
LEXICON = "attncontrol_lexicon"  # the component that pipelines trained here begin with
PUNCTUATION = {"’": "'", "–": "-", "—": ","}  # as the pipelines know it


@dataclass(frozen=True)
class PromptParser:
    """A loaded pipeline: `name` and version as reported in results, `nlp` the spaCy pipeline itself.

    The embedded pipeline, and others trained like it, read lower case only (`lower_case`), so that the case of a
    prompt never matters to them.
    """

    name: str
    nlp: Callable[[str], Any]
    lower_case: bool = False

    def __call__(self, prompt: str) -> DependencyParse:
        """The dependency parse of a prompt, runs of white space read as one space; spans are those of the prompt."""
        text, offsets = _normalise(prompt, self.lower_case)
        parse = DependencyParse.from_doc(self.nlp(text))
        spans: tuple[Span, ...] = tuple((offsets[start], offsets[end - 1] + 1) for start, end in parse.spans)
        return dataclasses.replace(parse, prompt=prompt, spans=spans)


def load_prompt_parser(name: str | None = None) -> PromptParser:
    """Loads a parser once and keeps it.

    Args:
        name: None for the first of en_core_web_trf, _lg, _md, _sm that is installed and loads, else the embedded
            parser; "embedded" for that one always; any other value is a spaCy pipeline's package name or folder. What
            None finds depends on the installation, so the result's `backend` names it.

    Raises:
        ValueError: For a pipeline that is not installed, does not load or has no dependency parser.
    """
    return _load(str(name) if name is not None else None)


def analyse(prompt: str, parser: Any = None) -> tuple[DependencyParse, str]:
    """Parses a prompt.

    Args:
        prompt: What to parse.
        parser: A name as for `load_prompt_parser`, a PromptParser, a loaded spaCy pipeline, or a finished analysis of
            this very prompt: a spaCy Doc or a DependencyParse.

    Returns:
        The parse, and the name of what made it.

    Raises:
        ValueError: If the analysis is one of another text.
    """
    if parser is None or isinstance(parser, str | Path):
        parser = load_prompt_parser(parser)
    elif not isinstance(parser, PromptParser | DependencyParse) and callable(parser):
        parser = PromptParser(_title(parser), parser)
    if isinstance(parser, PromptParser):
        return parser(prompt), parser.name
    parse = parser if isinstance(parser, DependencyParse) else DependencyParse.from_doc(parser)
    if parse.prompt != prompt:
        raise ValueError(f"the given analysis is of {parse.prompt!r}, not of the prompt {prompt!r}")
    return parse, "doc"


@cache
def _load(name: str | None) -> PromptParser:
    import spacy

    from attncontrol.prompt import spacy_components  # noqa: F401, registers LEXICON

    if name == EMBEDDED:
        name = str(Path(__file__).with_name("data") / "parser")
    if name is not None:
        try:
            nlp = spacy.load(name)
        except (OSError, ImportError, ValueError, KeyError) as error:
            raise ValueError(
                f"the spaCy pipeline {name!r} does not load: {error}. "
                f"Install it with `python -m spacy download {name}`, or use parser='embedded'"
            ) from error
        if not nlp.has_pipe("parser"):
            raise ValueError(f"the spaCy pipeline {name!r} has no dependency parser; use parser='embedded'")
        return PromptParser(_title(nlp), nlp, lower_case=nlp.has_pipe(LEXICON))
    for installed in filter(spacy.util.is_package, PREFERRED):
        try:
            return _load(installed)
        except ValueError as error:
            warnings.warn(f"{error}; going on without it", stacklevel=3)
    return _load(EMBEDDED)


def _title(nlp: Any) -> str:
    """Name and version of a pipeline: "en_core_web_trf 3.8.0"."""
    meta = getattr(nlp, "meta", {})
    return f"{meta.get('lang', '')}_{meta.get('name', 'pipeline')} {meta.get('version', '')}".strip("_ ")


def _normalise(prompt: str, lower_case: bool) -> tuple[str, list[int]]:
    """The text to parse and, for each of its characters, its place in the prompt."""
    text, offsets = [], []
    for match in re.finditer(r"\S+", prompt):
        if text:
            text.append(" ")
            offsets.append(match.start() - 1)
        for position, character in enumerate(match[0], match.start()):
            lower = character.lower() if lower_case else character
            character = lower if len(lower) == 1 else character
            text.append("?" if "\ud800" <= character <= "\udfff" else PUNCTUATION.get(character, character))
            offsets.append(position)
    return "".join(text), offsets
