"""Build the package's word list from WordNet 3.0.

    python -m apps.prompt_parser.build_words --wordnet /usr/share/wordnet

WordNet is in Debian's package wordnet-base. Words of which it marks a third of the senses or more as obscene, a slur
or disparaging, by its usage pointers or in its glosses, are left out; words that are not in the list still parse.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
SENSE_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
OUTPUT = Path(__file__).parents[2] / "attncontrol" / "prompt" / "data" / "words.txt.gz"
WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
USAGES = ("obscenity", "ethnic_slur", "disparagement", "vulgarism", "dirty_word")
GLOSSES = re.compile(
    r"obscene|\(vulgar|vulgar (term|word|slang)|(offensive|derogatory|disparaging|insulting|contempt) (term|name|word)"
    r"|\((ethnic slur|offensive|derogatory|disparaging)\)|ethnic slur|term of (abuse|disparagement)|slang (term )?for"
)
HARMLESS = {  # blocked by the rule, but everyday words of prompts
    *("cooly", "corporation", "fairy", "hillbilly", "mongrel", "oath", "pansy", "peter", "potbelly", "puss", "rabble"),
    *("ragtag", "runt", "taco", "tom", "toothbrush", "tummy", "wig"),
}


def parts_of_speech(wordnet: Path) -> dict[str, str]:
    """Every single word with its parts of speech, by falling frequency, then number of senses."""
    uses, senses = Counter(), Counter()
    for line in (wordnet / "cntlist.rev").read_text().splitlines():
        key, _, count = line.split()
        lemma, _, rest = key.partition("%")
        uses[lemma.lower(), SENSE_TYPES[rest[0]]] += int(count)
    for letter, name in FILES.items():
        for line in data_lines(wordnet / f"index.{name}"):
            fields = line.split()
            if WORD.fullmatch(fields[0]):
                senses[fields[0], letter] = int(fields[2])
    words: dict[str, str] = {}
    for word, letter in sorted(senses, key=lambda k: (k[0], -uses[k], -senses[k], "navr".index(k[1]))):
        words[word] = words.get(word, "") + letter
    return words


def irregular_forms(wordnet: Path) -> dict[str, str]:
    """Irregular plurals (p), past forms and participles (d), comparatives (c)."""
    forms: dict[str, str] = {}
    for name, letter in (("noun", "p"), ("verb", "d"), ("adj", "c")):
        for line in (wordnet / f"{name}.exc").read_text().splitlines():
            form = line.split()[0]
            if WORD.fullmatch(form) and not form.endswith("ing") and letter not in forms.get(form, ""):
                forms[form] = forms.get(form, "") + letter
    return forms


def blocked_words(wordnet: Path) -> set[str]:
    """Words of which WordNet marks at least a third of the senses as offensive."""
    synsets = [line for name in FILES.values() for line in data_lines(wordnet / f"data.{name}")]
    usages = {line.split()[0] for line in synsets if set(USAGES) & set(line.split("|")[0].split())}
    senses, offensive = Counter(), Counter()
    for line in synsets:
        fields, _, gloss = line.partition("|")
        fields = fields.split()
        words = {word.lower().partition("(")[0] for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]}
        senses.update(words)
        if GLOSSES.search(gloss) or any(kind == ";u" and target in usages for kind, target in pairwise(fields)):
            offensive.update(words)
    return {word for word, count in offensive.items() if 3 * count >= senses[word]} - HARMLESS


def data_lines(path: Path) -> list[str]:
    """A WordNet file's lines without its licence header."""
    return [line for line in path.read_text().splitlines() if not line.startswith("  ")]


def build(wordnet: Path) -> dict[str, str]:
    """The word list: parts of speech and irregular forms, offensive words left out."""
    words, forms = parts_of_speech(wordnet), irregular_forms(wordnet)
    for form, letters in forms.items():
        words[form] = words.get(form, "") + letters
    blocked = blocked_words(wordnet)
    return {word: letters for word, letters in sorted(words.items()) if word not in blocked}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--wordnet", type=Path, required=True, help="folder with index.noun, data.noun, ...")
    words = build(arguments.parse_args().wordnet)
    text = "".join(f"{word}\t{letters}\n" for word, letters in words.items())
    OUTPUT.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(words)} words, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
