"""Whether a prompt looks like English, which is all that the parser can read."""

from __future__ import annotations

import re
import unicodedata
import warnings

from attncontrol.prompt.lexicon import CLOSED_CLASS, word_class

# Words of German, French, Spanish, Italian, Portuguese, Dutch, Scandinavian and Slavic languages, Turkish,
# Indonesian and Vietnamese that join others, and that are no English words.
JOINING = frozenset(
    """
    ein eine einen einem einer der das den dem und mit auf im neben unter über hinter vor aus zwei drei ohne ist sind
    un une le la les et des du avec dans sur sous près deux trois sans une est au aux à d l
    el los las y con en una unos unas del sobre junto dos tres sin es al
    il lo gli e di su accanto uno vicino due tre senza è nel nella sul sulla dello della
    um uma com o os dois três sem do da na ao
    een het op met naast onder twee drie zonder
    en ett och på med med og ved siden av bredvid uten
    i w na z obok pod nad bez oraz jest s pri
    ve bir ile yanında üzerinde
    dan dengan di seekor sebuah atas yang
    một và con trên với
    és egy az ja kanssa
    """.split()
)
WEAK = frozenset(
    {"la", "los", "las", "el", "del", "da", "do", "di", "d", "l", "e", "o", "i", "s", "w", "z", "y", "con"}
)
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
MANY_UNKNOWN = 3


def warn_of_other_language(prompt: str) -> None:
    """Warns if the prompt is hardly English, so that what a parser finds in it is a guess."""
    if not looks_like_english(prompt):
        warnings.warn(
            f"this does not look like English, which the parser reads: {_short(prompt)}. Name the subjects",
            stacklevel=4,
        )


def looks_like_english(prompt: str) -> bool:
    """Whether its letters are Latin and its small words, or most others, are English."""
    letters = [c for c in prompt if c.isalpha()]
    latin = sum("LATIN" in unicodedata.name(c, "") for c in letters)
    if 2 * latin < len(letters):
        return False
    written = [m[0] for m in WORD.finditer(prompt)]
    capitals = {i for i in range(1, len(written)) if written[i][0].isupper()}
    names = capitals | {i - 1 for i in capitals if written[i - 1][0].isupper()}  # "Los Angeles"
    words = [word.lower() for i, word in enumerate(written) if i not in names or word.islower()]
    ands = "i" in written  # a small one is "and" in Slavic languages, and no pronoun
    english = sum(word in CLOSED_CLASS and not (ands and word == "i") for word in words)
    foreign = [word for word in words if word in JOINING and (word not in CLOSED_CLASS or (ands and word == "i"))]
    unknown = sum(word_class(word) == "<?>" for word in words)
    if len(foreign) > english and (len(foreign) > 1 or unknown > (english > 0) or not WEAK.issuperset(foreign)):
        return False
    return english > 0 or unknown < max(MANY_UNKNOWN, 0.75 * len(words))


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "...")
