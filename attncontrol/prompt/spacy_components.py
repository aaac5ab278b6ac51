"""spaCy pieces of the embedded parser; spaCy is imported with this module, so import it only when parsing."""

from __future__ import annotations

from spacy.lang.char_classes import HYPHENS
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import compile_infix_regex

from attncontrol.prompt.lexicon import word_class

NAME = "attncontrol_prompts"


@Language.component("attncontrol_lexicon")
def set_word_classes(doc: Doc) -> Doc:
    """Give every token its word class as norm, the parser's feature for words it has never seen."""
    for token in doc:
        token.norm_ = word_class(token.lower_)
    return doc


def keep_hyphens(nlp: Language) -> None:
    """Make the tokenizer keep hyphenated words whole ("sleepy-eyed", "t-shirt")."""
    infixes = [infix for infix in nlp.Defaults.infixes if HYPHENS not in infix]
    nlp.tokenizer.infix_finditer = compile_infix_regex(infixes).finditer
