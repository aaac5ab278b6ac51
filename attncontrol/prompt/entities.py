"""Entities and their modifiers from a dependency parse: the same rules for every pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attncontrol.prompt.dependencies import DependencyParse
from attncontrol.prompt.structure import Entity, Word

NOUNS = ("NOUN", "PROPN")
NEVER_MODIFIERS = ("PUNCT", "NUM", "DET", "PRON", "ADP")
MODIFIERS = ("amod", "nmod", "compound", "npadvmod")
NOUN_PLACES = ("ROOT", "nsubj", "nsubjpass", "attr", "dobj", "pobj", "conj")
BE = frozenset({"be", "is", "are", "was", "were", "am", "been", "being", "'s", "'re", "’s", "’re"})
# Words that a tagger may call a noun but that name no thing.
PRONOUNS = frozenset(
    {"something", "someone", "somebody", "anything", "anyone", "anybody", "nothing", "everything", "everyone", "it"}
    | {"everybody", "one", "ones", "he", "she", "they", "them", "him", "her", "itself", "himself", "herself", "none"}
    | {"themselves", "there", "this", "that", "these", "those", "which", "who", "each", "other", "others", "another"}
    | {"both", "all", "some", "several", "neither", "either"}
)
# Words that a parser may call a modifier but that say how many or which one.
QUANTITIES = frozenset(
    {"several", "many", "few", "fewer", "various", "multiple", "numerous", "much", "more", "most", "some", "other"}
    | {"another", "such", "same", "own", "first", "second", "third", "last", "next", "one", "every", "each", "both"}
    | {"all", "dozen", "hundred", "thousand", "million"}
)
COMPLEX_PREPOSITION = re.compile(
    r"\b(?:in\s+front|in\s+back|on\s+top|(?:in|at|on|to|by|from)\s+the\s+(?:(?:left|right|other|very|far)\s+)*"
    r"(?:front|back|top|bottom|middle|center|centre|left|right|side|edge))\s+of\b"
    r"|\b(?:on|to)\s+the\s+(?:left|right)(?:\s+side)?\b(?!\s+\w+ing\b)",
    re.IGNORECASE,
)
NON_VISUAL_NOUNS = frozenset(
    {"photo", "photograph", "image", "picture", "painting", "drawing", "illustration", "view", "background", "scene"}
)


def extract_entities(parse: DependencyParse, ignore_nouns: Iterable[str] = ()) -> tuple[Entity, ...]:
    """Every noun that modifies no other noun, in text order, with what modifies it, in text order.

    Modifiers are adjectives, participles and nouns before the noun with their adverbs and coordinated partners, and
    predicate adjectives ("the apple is red", "the apple that is red"). Determiners, numerals, quantity words,
    possessors, prepositional phrases and clauses with a full verb are not. Nouns of complex prepositions ("in front
    of") and pronouns are no entities. Entities whose noun is among `ignore_nouns` (lower case) are left out.
    """
    parse = parse.join_hyphens()
    words = [word.lower() for word in parse.words]
    prepositions = [match.span() for match in COMPLEX_PREPOSITION.finditer(parse.prompt)]
    predicates = _predicates(parse)
    left_out = PRONOUNS.union(ignore_nouns)
    entities = []
    for noun, (start, end) in enumerate(parse.spans):
        if not _is_noun(parse, noun) or _modifies(parse, noun) or words[noun] in left_out:
            continue
        if any(s <= start and end <= e for s, e in prepositions) or not any(map(str.isalpha, words[noun])):
            continue
        found = _modifiers(parse, [noun, *predicates.get(noun, ())]) | set(predicates.get(noun, ()))
        kept = sorted(m for m in found - {noun} if words[m] not in QUANTITIES)
        entities.append(Entity(_word(parse, noun), tuple(_word(parse, m) for m in kept)))
    return tuple(entities)


def _word(parse: DependencyParse, index: int) -> Word:
    start, end = parse.spans[index]
    return Word(parse.prompt[start:end], (start, end))


def _is_noun(parse: DependencyParse, word: int) -> bool:
    """Whether tagger and parser agree on a noun: clauses and what has a subject are verbs."""
    if parse.labels[word] in ("acl", "relcl", "advcl", "aux", "auxpass"):
        return False
    if parse.pos[word] not in NOUNS and not _is_adjective_as_noun(parse, word):
        return False
    return not any(parse.labels[c] in ("nsubj", "nsubjpass", "aux") for c in parse.children[word])


def _is_adjective_as_noun(parse: DependencyParse, word: int) -> bool:
    """Whether what is tagged an adjective stands as a noun with its article: "an orange", "in the square".

    The first of two adjectives with articles and one noun ("a red and a blue ball") does not.
    """
    if parse.pos[word] != "ADJ" or parse.labels[word] not in NOUN_PLACES or not _has(parse, word, "det"):
        return False
    return not any(parse.labels[c] == "conj" and _has(parse, c, "amod") for c in parse.children[word])


def _has(parse: DependencyParse, word: int, *labels: str) -> bool:
    return any(parse.labels[c] in labels for c in parse.children[word])


def _modifies(parse: DependencyParse, noun: int) -> bool:
    """Whether a noun is part of another's description, itself or as partner of one ("wood and metal desk")."""
    if _stands_alone(parse, noun):
        return False
    while parse.labels[noun] == "conj" and parse.heads[noun] < noun:
        noun = parse.heads[noun]
    return parse.labels[noun] in (*MODIFIERS, "advmod") and not _has_complement(parse, parse.heads[noun])


def _has_complement(parse: DependencyParse, word: int) -> bool:
    """Whether an adjective heads the phrase and says more: in "a street free of cars" the street is the thing."""
    return parse.heads[word] == word and parse.pos[word] not in NOUNS and _has(parse, word, "prep")


def _stands_alone(parse: DependencyParse, noun: int) -> bool:
    """Whether a noun that is parsed as another's modifier is none: it has an article or adjective of its own.

    In "a red hat and rubber boots" only the rubber describes the boots, in "a wood and metal desk" the wood, too. The
    partner of a modifier is none either with an article or adjective: "the apple is green and the pear ...".
    """
    partner = parse.labels[noun] == "conj" and parse.pos[noun] in NOUNS
    return (parse.labels[noun] == "nmod" or partner) and _has(parse, noun, "det", "amod")


def _modifiers(parse: DependencyParse, heads: list[int]) -> set[int]:
    """Everything below the first of `heads`, a noun, and the others, adjectives, that belongs to the description."""
    found: set[int] = set()
    todo = list(heads)
    while todo:
        head = todo.pop()
        labels = MODIFIERS if head == heads[0] else (*MODIFIERS, "advmod", "conj")
        for child in parse.children[head]:
            disagree = parse.labels[child] == "compound" and parse.pos[child] == "VERB"
            if _stands_alone(parse, child):
                if parse.labels[child] == "nmod":
                    partners = [c for c in parse.children[child] if parse.labels[c] == "conj"]
                    found.update(partners)
                    todo += partners
            elif parse.labels[child] in labels and not disagree and parse.pos[child] not in NEVER_MODIFIERS:
                found.add(child)
                todo.append(child)
    return found


def _predicates(parse: DependencyParse) -> dict[int, list[int]]:
    """Predicate adjectives by the noun they are said of."""
    found: dict[int, list[int]] = {}
    for verb, word in enumerate(parse.words):
        adjectives = [c for c in parse.children[verb] if parse.labels[c] == "acomp" and parse.pos[c] != "ADV"]
        if word.lower() in BE and adjectives:
            for noun in _subjects(parse, verb):
                found.setdefault(noun, []).extend(adjectives)
    return found


def _subjects(parse: DependencyParse, verb: int) -> list[int]:
    """The nouns a copula speaks of: its subjects and their partners, or the noun its relative clause belongs to."""
    subjects = [c for c in parse.children[verb] if parse.labels[c] == "nsubj"]
    while not subjects and parse.labels[verb] == "conj" and parse.heads[verb] < verb:
        verb = parse.heads[verb]
        subjects = [c for c in parse.children[verb] if parse.labels[c] == "nsubj"]
    nouns = [s for s in subjects if parse.pos[s] in NOUNS]
    if not nouns and parse.labels[verb] == "relcl":
        return [parse.heads[verb]]
    for noun in nouns:
        nouns += [c for c in parse.children[noun] if parse.labels[c] in ("conj", "appos")]
    return nouns
