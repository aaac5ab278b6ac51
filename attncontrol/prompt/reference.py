"""Groups of words exactly as the published code of SynGen and EBAMA forms them, quirks included.

A group is a list of words with their token indices (start of text = 0), modifiers first as a rule; words that the
published alignment does not find stand at the front of their group and have no indices. The rules read universal
parts of speech and ClearNLP labels, so any English spaCy pipeline's analysis will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from attncontrol.prompt.align import tokenize
from attncontrol.prompt.dependencies import DependencyParse
from attncontrol.prompt.parser import analyse
from attncontrol.prompt.structure import Entity, PromptStructure, Word

Group = list[Word]

MODIFIERS = ("amod", "nmod", "compound", "npadvmod", "advmod", "acomp")
NOUNS = ("NOUN", "PROPN")


def reference_structure(
    prompt: str,
    tokenizer: Any,
    method: Literal["syngen", "ebama"],
    parser: Any = None,
    include_entities: bool = False,
) -> PromptStructure:
    """The published code's groups of a prompt, as a structure to be given as `subjects` of a reference variant.

    Each group is an entity: its last member is the word, the others are the modifiers, whatever the grammar says.
    parser: see `attncontrol.prompt.parser.analyse`; a spaCy Doc of the prompt, for one. `include_entities` is that of
    SynGen. Raises ValueError where the published code fails, and for a prompt that the text encoder cuts off.
    """
    if method not in ("syngen", "ebama"):
        raise ValueError(f"there are reference groups of 'syngen' and 'ebama', not of {method!r}")
    parse, backend = analyse(prompt, parser)
    tokenized = tokenize(tokenizer, prompt)
    if tokenized.n_tokens < len(tokenized.pieces):
        raise ValueError(
            f"the reference groups need a prompt of at most {tokenized.n_tokens} tokens, this one has "
            f"{len(tokenized.pieces)}; use variant='default'"
        )
    if method == "syngen":
        groups = syngen_groups(parse, tokenized.pieces, include_entities)
    else:
        groups = ebama_groups(parse, tokenized.pieces)
    entities = tuple(Entity(group[-1], tuple(group[:-1])) for group in groups)
    return PromptStructure(prompt, entities, f"{method} reference, {backend}", tokenized.n_tokens, tokenized.encoders)


def syngen_groups(parse: DependencyParse, pieces: Sequence[str], include_entities: bool = False) -> list[Group]:
    """SynGen's groups (its published code's three or four extractors, alignment and merging).

    pieces: the tokens of the prompt, start and end of text included. Raises ValueError for a prompt without nouns,
    where the published code fails with a TypeError.
    """
    extractors = [noun_rooted, copula_rooted, relative_clauses]
    if include_entities:
        extractors.append(single_nouns)
    groups: list[Group] = []
    for extract in extractors:
        groups += filter(_found, align_groups(parse, list(extract(parse)), pieces, str.lower))
    return _merge_overlapping(groups)


def ebama_groups(parse: DependencyParse, pieces: Sequence[str]) -> list[Group]:
    """EBAMA's groups: those with modifiers, shortest first, then bare objects as groups of one word.

    pieces: as for `syngen_groups`. Raises ValueError for a prompt without nouns and for a group of which no member is
    found, where the published code fails with TypeError and IndexError: it compares case-sensitively with lower-case
    tokens, so a capitalised name is enough.
    """
    lists = [group for extract in (noun_rooted, copula_rooted, relative_clauses) for group in extract(parse)]
    groups = align_groups(parse, _drop_contained(sorted(lists, key=len)), pieces, str)
    for group in groups:
        if not _found(group):
            raise ValueError(
                f"EBAMA's published code fails here: none of {' '.join(w.text for w in group)!r} is among the "
                "lower-case tokens of the prompt; write it in lower case, or use variant='default'"
            )
    # The published test compares whole words with single tokens: objects of several tokens always come again.
    taken = {group[-1].token_indices for group in groups if len(group[-1].token_indices) == 1}
    taken |= {(index,) for group in groups for word in group[:-1] for index in word.token_indices}
    bare = align_groups(parse, list(single_nouns(parse)), pieces, str)
    return groups + [group for group in bare if _found(group) and group[0].token_indices not in taken]


def candidate_nouns(parse: DependencyParse) -> list[int]:
    """Nouns that are nobody's modifier. Raises ValueError if there is none."""
    nouns = [i for i in range(len(parse)) if parse.pos[i] in NOUNS and parse.labels[i] not in MODIFIERS]
    if not nouns:
        raise ValueError(f"no noun in {parse.prompt!r}: the published code fails here; variant='default' does not")
    return nouns


def noun_rooted(parse: DependencyParse) -> Iterator[list[int]]:
    """Extractor A: every noun with what modifies it, depth first."""
    for noun in candidate_nouns(parse):
        if found := _collect(parse, noun, MODIFIERS, lambda word: True):
            yield [*found, noun]


def copula_rooted(parse: DependencyParse) -> Iterator[list[int]]:
    """Extractor B: what an auxiliary joins; the noun is not last."""
    for verb in range(len(parse)):
        if parse.pos[verb] != "AUX" or parse.labels[verb] in MODIFIERS:
            continue
        joined = [c for c in parse.children[verb] if parse.labels[c] in MODIFIERS or parse.pos[c] in NOUNS]
        found = [c for c in joined if parse.pos[c] not in ("AUX", "VERB")]
        if len(found) >= 2:
            stack = [c for child in joined for c in parse.children[child]]
            yield found + _empty(parse, stack, MODIFIERS, lambda word: parse.pos[word] != "AUX")


def relative_clauses(parse: DependencyParse) -> Iterator[list[int]]:
    """Extractor C: as A through relative clauses, for the first noun of the prompt only."""
    noun = candidate_nouns(parse)[0]
    labels = (*MODIFIERS, "relcl")
    if found := _collect(parse, noun, labels, lambda word: parse.pos[word] not in ("AUX", "VERB")):
        yield [*found, noun]


def single_nouns(parse: DependencyParse) -> Iterator[list[int]]:
    """Extractor D: every noun by itself, those inside compounds too."""
    yield from ([i] for i in range(len(parse)) if parse.pos[i] in NOUNS)


def _collect(parse: DependencyParse, root: int, labels: Sequence[str], listed: Callable[[int], bool]) -> list[int]:
    """The direct dependents with one of the labels, then all below them, last pushed first."""
    direct = [child for child in parse.children[root] if parse.labels[child] in labels]
    stack = [c for child in direct for c in parse.children[child]]
    return [child for child in direct if listed(child)] + _empty(parse, stack, labels, listed)


def _empty(
    parse: DependencyParse, stack: list[int], labels: Sequence[str], listed: Callable[[int], bool]
) -> list[int]:
    found = []
    while stack:
        word = stack.pop()
        if parse.labels[word] in labels or parse.labels[word] == "conj":
            if listed(word):
                found.append(word)
            stack += parse.children[word]
    return found


def align_groups(
    parse: DependencyParse, groups: list[list[int]], pieces: Sequence[str], fold: Callable[[str], str]
) -> list[Group]:
    """Give each word the first free piece or run of pieces that spells it; what an earlier group took is not free."""
    plain = [fold(piece.removesuffix("</w>")) for piece in pieces]
    aligned: list[Group] = []
    taken: set[int] = set()
    for group in groups:
        members: Group = []
        for word in group:
            own = [member.token_indices for member in members]
            indices = _locate(fold(parse.words[word]), plain, taken, own)
            members.append(Word(parse.words[word], parse.spans[word], indices))
        taken |= {index for member in members for index in member.token_indices}
        aligned.append(sorted(members, key=lambda member: bool(member.token_indices)))
    return aligned


def _locate(word: str, pieces: list[str], taken: set[int], own: list[tuple[int, ...]]) -> tuple[int, ...]:
    for start in range(1, len(pieces) - 1):
        if pieces[start] == word:
            if start not in taken and (start,) not in own:
                return (start,)
            continue
        spelled = ""
        for end in range(start, len(pieces) - 1):
            spelled += pieces[end]
            if not spelled or not word.startswith(spelled):
                break
            run = tuple(range(start, end + 1))
            if spelled == word and run not in own and not taken.intersection(run):
                return run
    return ()


def _found(group: Group) -> bool:
    return any(word.token_indices for word in group)


def _merge_overlapping(groups: list[Group]) -> list[Group]:
    """Merge each group into the first later one that shares a token, until none does."""
    changed = True
    while changed:
        changed, rest, groups = False, groups, []
        while rest:
            first, *rest = rest
            tokens = {i for word in first for i in word.token_indices}
            later = next((g for g in rest if any(tokens & set(word.token_indices) for word in g)), None)
            if later is None:
                groups.append(first)
                continue
            known = {word.token_indices for word in first}
            merged = first + [word for word in later if word.token_indices not in known]
            later[:] = sorted(merged, key=lambda word: bool(word.token_indices))
            changed = True
    return groups


def _drop_contained(lists: list[list[int]]) -> list[list[int]]:
    """Of lists sorted by length those that are neither repeated nor part of a longer one that follows."""
    kept: list[list[int]] = []
    for i, words in enumerate(lists):
        longer = any(len(later) > len(words) and set(words) <= set(later) for later in lists[i + 1 :])
        if words not in kept and not longer:
            kept.append(words)
    return kept
