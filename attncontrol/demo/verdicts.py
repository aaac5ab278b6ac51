"""What became of every thing that a prompt names: the oracle's findings in words. For the bundled models only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from attncontrol.evaluation import oracle
from attncontrol.models import BUNDLED
from attncontrol.prompt.subjects import FUNCTION_WORDS

RIGHT, MISSING, WRONG_COLOUR, MISPLACED = "right", "missing", "wrong colour", "in the wrong place"
FAULTS = {MISSING: "forgot", WRONG_COLOUR: "gave a wrong colour to", MISPLACED: "misplaced"}

States = list[tuple[str, str]]


def states(model: str, prompt: str, image: Image.Image, boxes: Sequence[dict[str, Any]] = ()) -> States:
    """Every thing with its state: "right", "missing", "wrong colour" or "in the wrong place".

    boxes: {"phrase", "box"}; a thing is in its place if its centre is in a box whose phrase ends with its name. Empty
    if the oracle knows none of the things, or another model made the image: it knows the bundled models' world only.
    """
    if model not in BUNDLED:
        return []
    try:
        expected = oracle.expected_from_prompt(prompt)
    except ValueError:
        return []
    judged, found = oracle.verdict(expected, image), []
    for (name, colour), present, coloured in zip(expected, judged.present, judged.coloured, strict=True):
        frames = [item["box"] for item in boxes if item["phrase"].lower().split()[-1] == name]
        seen = [d.box for d in judged.detections if d.object == name]
        placed = not frames or any(_centre_inside(box, frame) for box in seen for frame in frames)
        state = MISSING if not present else WRONG_COLOUR if not coloured else RIGHT if placed else MISPLACED
        found.append((f"{colour} {name}" if colour else name, state))
    return found


def _centre_inside(box: Sequence[float], frame: Sequence[float]) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return frame[0] <= x <= frame[2] and frame[1] <= y <= frame[3]


def sentence(plain: Sequence[Sequence[str]], control: Sequence[Sequence[str]] | None = None) -> str:
    """What went wrong without control and what control made of it, in a sentence or two; empty without findings."""
    if not plain:
        return ""
    wrong, left = _faults(plain), _faults(control or ())
    if control is None:
        return f"The model {wrong}." if wrong else "Everything is there."
    if wrong and not left:
        return f"The model {wrong}. With attention control it is right."
    if wrong:
        return f"The model {wrong}. " + (
            "Control did not help here: try another seed." if wrong == left else f"With control it still {left}."
        )
    return f"Control spoiled this one: it {left}." if left else "Both pictures are right: there was nothing to mend."


def _faults(found: Sequence[Sequence[str]]) -> str:
    """ "forgot the cat and the dog and misplaced the bow"."""
    things: dict[str, list[str]] = {}
    for name, state in found:
        if state != RIGHT:
            things.setdefault(FAULTS[state], []).append(f"the {name}")
    return " and ".join(f"{fault} {' and '.join(names)}" for fault, names in things.items())


def words(model: str) -> dict[str, list[str]]:
    """The words a bundled model was taught, {"things", "colours"}; empty for other models."""
    if model not in BUNDLED:
        return {}
    known = oracle.load()
    return {"things": list(known.names), "colours": list(known.colours)}


def is_unknown(model: str, word: str) -> bool:
    """Whether a word says something that this model was never taught; False for models that are not bundled."""
    known = [*words(model).get("things", ()), *words(model).get("colours", ()), *FUNCTION_WORDS]
    return model in BUNDLED and any(map(str.isalpha, word)) and word.lower() not in known
