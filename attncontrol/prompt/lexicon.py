"""What parts of speech a word can have, from WordNet: the feature that lets a small parser know rare words."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

# Words whose identity matters more than their class; the parser sees them as they are.
_CLOSED = """
    a an the this that these those some any no each every another both all either neither such what which who whom
    whose he she it they them him her his hers its their theirs i me my you your we us our one ones something someone
    anything anyone nothing everything everyone himself herself itself themselves other others
    and or but nor yet plus & of in on at by to with without for from into onto over under above below behind beside
    besides between among near next inside outside around along across against through toward towards off up down out
    upon underneath beneath atop amid during like as than via per within
    is are was were be been being am has have had do does did can could will would should may might must not n't 's 're
    there here while when where because if so very too quite just also
    dozen dozens hundred hundreds thousand thousands million millions several many few much more
    most lots lot first second front top back middle center centre left right side edge
"""
NUMBERS = frozenset(
    """
    zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    """.split()
)
CLOSED_CLASS = NUMBERS.union(_CLOSED.split())


@cache
def word_list() -> dict[str, str]:
    """Every word of the list with its parts of speech, the most frequent first.

    n noun, v verb, a adjective, r adverb; irregular forms: p plural, d past or participle, c comparative.
    """
    packed = (Path(__file__).with_name("data") / "words.txt.gz").read_bytes()
    return dict(line.split("\t") for line in gzip.decompress(packed).decode().splitlines())


@cache
def word_class(word: str) -> str:
    """A lower-case word's class code: itself in closed classes, else its dominant and all its parts of speech.

    "dog" gives "<n nv>", "dogs" "<p pz>"; z is a verb's -s form, g its -ing form; "?" is an unknown word; numbers in
    figures and words ("21", "twenty-one") are "0". A hyphenated word that is not in the list has the class of its last
    part.
    """
    if _is_number(word):
        return "0"
    if word in CLOSED_CLASS or not any(c.isalpha() for c in word):
        return word
    letters = _parts_of_speech(word)
    if not letters and "-" in word:
        return f"<- {_parts_of_speech(word.rsplit('-', 1)[1]) or '?'}>"
    return f"<{letters[0]} {''.join(sorted(letters))}>" if letters else "<?>"


def _is_number(word: str) -> bool:
    """Whether a word is a number in figures or, but for "one", in words."""
    first, *others = word.split("-")
    if first in NUMBERS and all(other in NUMBERS or other == "one" for other in others):
        return True
    return any(c.isdigit() for c in word) and not any(c.isalpha() for c in word)


def _parts_of_speech(word: str) -> str:
    """Listed parts of speech, then those of a regular inflection of a listed word."""
    words = word_list()
    found = words.get(word, "")
    for suffix, stems, letters in (
        ("s", (word[:-1], word[:-2], word[:-3] + "y"), {"n": "p", "v": "z"}),
        ("ing", _stems(word, 3), {"v": "g"}),
        ("ed", _stems(word, 2), {"v": "d"}),
        ("er", _stems(word, 2), {"a": "c"}),
        ("est", _stems(word, 3), {"a": "c"}),
    ):
        if not word.endswith(suffix) or len(word) < 4 or word.endswith("ss"):
            continue
        for stem in stems:
            if len(stem) > 1:
                found += "".join(letters[p] for p in words.get(stem, "") if p in letters and letters[p] not in found)
    return found


def _stems(word: str, suffix: int) -> tuple[str, ...]:
    """What a word can be an inflection of: walk(ed), bak(e), stop(p), carr(i)."""
    stem = word[:-suffix]
    doubled = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else ""
    return stem, stem + "e", doubled, stem[:-1] + "y" if stem.endswith("i") else ""
