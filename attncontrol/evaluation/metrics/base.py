"""What a metric is: pictures in, named numbers out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from PIL import Image

from attncontrol.prompt import parse_prompt
from attncontrol.prompt.structure import Entity

Score = dict[str, float | str | None]


@dataclass(frozen=True)
class Picture:
    """One image to score, and the prompt it should follow."""

    image: Image.Image
    prompt: str


class Metric(Protocol):
    """Scores are numbers by column name, None where the metric does not apply; texts are kept but not averaged.

    `columns`: the numbers' names, the principal one first, with what they mean.
    """

    columns: ClassVar[dict[str, str]]

    def score(self, pictures: Sequence[Picture]) -> list[Score]:
        """The scores of each picture."""


def subjects_of(prompt: str) -> list[str]:
    """The prompt's entities with their articles and modifiers, "a red crown"; the same for all methods.

    Of the prompts of the Attend-and-Excite benchmark these are the halves which its evaluation compares.
    """
    return [_with_article(prompt, entity) for entity in parse_prompt(prompt).entities]


def _with_article(prompt: str, entity: Entity) -> str:
    start = min(word.span[0] for word in (*entity.modifiers, entity.noun))
    article = re.search(r"\b(an?|the)\s+$", prompt[:start], re.IGNORECASE)
    return f"{article[1]} {entity.text}" if article else entity.text
