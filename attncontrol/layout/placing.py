"""Phrases of a layout and the entities of a prompt: which belongs to which."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any, Literal

from attncontrol.layout.automatic import automatic_layout
from attncontrol.layout.reading import AUTO, PlacedPhrase, RawLayout
from attncontrol.layout.regions import Layout, Region
from attncontrol.prompt.structure import Entity, PromptStructure, Word
from attncontrol.prompt.subjects import find_words, resolve_subjects

ARTICLES = ("a", "an", "the")
IRREGULAR = {
    "mouse": "mice", "goose": "geese", "child": "children", "person": "people", "man": "men", "foot": "feet",
    "tooth": "teeth", "ox": "oxen", "sheep": "sheep", "fish": "fish", "deer": "deer", "cactus": "cacti",
}  # fmt: skip


def place(
    layout: RawLayout | Literal["auto"], structure: PromptStructure, tokenizer: Any = None
) -> tuple[PromptStructure, Layout]:
    """Attaches every phrase of a layout to an entity of the prompt.

    A phrase names the entity whose noun, or whose modifiers and noun, it is, in any case, with or without article
    and plural s; a phrase said again means the next such entity, "cat#2" the second one. A phrase with as many
    regions as the prompt has such entities gives each of them one, in order. What is in the prompt but no entity
    becomes one, as does a phrase with token positions of its own. Entities without a region keep none.

    Args:
        layout: As `read_layout` gives it.
        structure: The prompt's.
        tokenizer: That of the text encoder; without it only entities can be placed.

    Returns:
        The prompt structure, with new entities in text order, and the layout of its entities.

    Raises:
        ValueError: For a phrase that the prompt does not have.
    """
    if layout == AUTO:
        return structure, automatic_layout(structure)
    placer = _Placer(structure, tokenizer)
    for item in layout:
        placer.add(item)
    entities, regions = zip(*placer.placed, strict=True)
    return dataclasses.replace(structure, entities=entities), Layout(tuple(tuple(r) for r in regions))


def layout_to_json(structure: PromptStructure, layout: Layout) -> dict[str, Any]:
    """The boxes of a prompt's entities in the JSON form that `read_layout` reads; a mask becomes the box around it.

    Entities are told apart by their tokens, so that reading it back gives each the same regions.
    """
    return {
        "objects": [
            {
                "phrase": entity.text,
                "boxes": [list(box) for box in boxes],
                **({"tokens": list(entity.token_indices)} if entity.token_indices else {}),
            }
            for entity, boxes in zip(structure.entities, layout.boxes, strict=True)
            if boxes
        ]
    }


class _Placer:
    def __init__(self, structure: PromptStructure, tokenizer: Any):
        self.structure, self.tokenizer = structure, tokenizer
        self.placed: list[tuple[Entity, list[Region]]] = [(entity, []) for entity in structure.entities]

    def add(self, item: PlacedPhrase) -> None:
        if item.tokens:
            self._entity_of_tokens(item).extend(item.regions)
            return
        matches = self._matches(item.phrase) or self._matches(_spelt_out(item.phrase))
        if not matches and (numbered := re.fullmatch(r"(.+)#(\d+)", item.phrase.strip())):
            matches, number = self._matches(numbered[1]), int(numbered[2])
            if matches and not 1 <= number <= len(matches):
                raise ValueError(
                    f"the layout names {item.phrase!r}, but the prompt has {len(matches)} of {numbered[1]!r}"
                )
            matches = matches[number - 1 : number]
        free = [regions for regions in matches if not regions]
        if len(free) == len(item.regions):
            for regions, region in zip(free, item.regions, strict=True):
                regions.append(region)
        elif matches:
            (free or matches[-1:])[0].extend(item.regions)
        else:
            self._insert(self._new_entity(item.phrase)).extend(item.regions)

    def _matches(self, phrase: str) -> list[list[Region]]:
        """The regions so far of the entities that the phrase fits best."""
        fits = [self._fit(entity, phrase) for entity, _ in self.placed]
        best = max(fits, default=0)
        return [regions for fit, (_, regions) in zip(fits, self.placed, strict=True) if fit == best > 0]

    def _fit(self, entity: Entity, phrase: str) -> int:
        """3 for modifiers and noun, 2 for the noun, perhaps with some of its words before it, 1 for its singular."""
        words = _words(phrase)
        if " ".join(words) == " ".join(_words(entity.text)):
            return 3
        noun, modifiers = _words(entity.noun.text), {word for m in entity.modifiers for word in _words(m.text)}
        before, last = words[: -len(noun)], words[-len(noun) :]
        if last == noun and (set(before) <= modifiers or self._ends_at(entity, words)):
            return 2
        singular = set(before) <= modifiers or self._ends_at(entity, [*before, *noun])
        return int(singular and " ".join(noun) in _plurals(" ".join(last)))

    def _ends_at(self, entity: Entity, words: list[str]) -> bool:
        if not entity.noun.span or self.structure.prompt is None:
            return False
        return any(span[1] == entity.noun.span[1] for span in find_words(self.structure.prompt, " ".join(words)))

    def _entity_of_tokens(self, item: PlacedPhrase) -> list[Region]:
        for entity, regions in self.placed:
            if set(item.tokens) in (set(entity.token_indices), set(entity.noun.token_indices)):
                return regions
        words = {i for encoder in self.structure.encoders for i in encoder}
        if not words.issuperset(item.tokens):
            raise ValueError(
                f"the layout gives {item.phrase!r} the tokens {list(item.tokens)}, the prompt's words are "
                f"{min(words, default=0)}..{max(words, default=0)}"
            )
        return self._insert(Entity(Word(item.phrase, None, item.tokens)))

    def _new_entity(self, phrase: str) -> Entity:
        prompt, bare = self.structure.prompt, " ".join(_words(phrase))
        if prompt is not None and not find_words(prompt, bare):
            bare = " ".join(_words(_spelt_out(phrase)))
        if prompt is None or not find_words(prompt, re.sub(r"#\d+$", "", bare)):
            raise ValueError(self._unknown(phrase))
        if self.tokenizer is None:
            raise ValueError(
                f"the layout names {phrase!r}, which is in the prompt but no entity of it; "
                f"its entities are: {self._entities()}"
            )
        return resolve_subjects([bare], prompt, self.tokenizer).entities[0]

    def _insert(self, entity: Entity) -> list[Region]:
        """Add an entity before the first one that begins later in the prompt."""

        def start(e: Entity) -> int:
            return min((word.token_indices[0] for word in (*e.modifiers, e.noun) if word.token_indices), default=0)

        later = (i for i, (other, _) in enumerate(self.placed) if start(other) > start(entity))
        item = (entity, [])
        self.placed.insert(next(later, len(self.placed)), item)
        return item[1]

    def _unknown(self, phrase: str) -> str:
        words = re.findall(r"\w+(?:['’-]\w+)*", self.structure.prompt or "")
        known = {w.lower(): w for w in [*words, *(e.text for e, _ in self.placed)]}
        close = difflib.get_close_matches(phrase.lower(), known, n=1, cutoff=0.5)
        hint = f", did you mean {known[close[0]]!r}?" if close else "."
        return (
            f"the layout names {phrase!r}, which is not in the prompt{hint} Its entities are: {self._entities()}; "
            f"its words are: {', '.join(dict.fromkeys(words)) or 'none'}"
        )

    def _entities(self) -> str:
        return ", ".join(repr(entity.text) for entity, _ in self.placed) or "none"


def _spelt_out(phrase: str) -> str:
    """The words of a class name as layout generators write it: "potted-plant", "fire_hydrant"."""
    return re.sub(r"[-_]+", " ", phrase)


def _plurals(noun: str) -> list[str]:
    """How the plural of a noun may be spelled."""
    regular = [noun + "s", noun + "es"]
    if re.search(r"[^aeiou]y$", noun):
        regular.append(noun[:-1] + "ies")
    if re.search(r"fe?$", noun):
        regular.append(re.sub(r"fe?$", "ves", noun))
    return [*regular, *(noun.removesuffix(one) + many for one, many in IRREGULAR.items() if noun.endswith(one))]


def _words(text: str) -> list[str]:
    """Lower-case words without a leading article."""
    words = text.lower().split()
    return words[1:] if len(words) > 1 and words[0] in ARTICLES else words
