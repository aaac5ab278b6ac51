"""Score a parser on annotated prompts: exact spans of entities, and of (entity, modifier) pairs.

    python -m apps.prompt_parser.evaluate --parser embedded --file apps/prompt_parser/dev.txt

Takes the text format of dev.txt or JSON lines {"prompt", "entities": [{"span", "modifiers": [{"span"}]}]}.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from attncontrol.prompt import parse_prompt
from attncontrol.prompt.structure import Entity

Span = tuple[int, int]
Gold = dict[Span, set[Span]]  # entity -> its modifiers


def read(path: Path) -> list[tuple[str, Gold]]:
    """Prompts with their annotation."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    if path.suffix == ".jsonl":
        return [from_record(json.loads(line)) for line in lines]
    return [from_text(line) for line in lines]


def from_record(record: dict) -> tuple[str, Gold]:
    """A JSON record of the golden file's format."""
    entities = record["entities"]
    return record["prompt"], {tuple(e["span"]): {tuple(m["span"]) for m in e["modifiers"]} for e in entities}


def from_text(line: str) -> tuple[str, Gold]:
    """A line "a red cat and a dog => cat [red]; dog"; modifiers stand before the noun, else behind it."""
    prompt, _, annotation = line.partition("=>")
    prompt, gold, end = prompt.strip(), {}, 0
    for item in filter(None, map(str.strip, annotation.split(";"))):
        noun, modifiers = re.fullmatch(r"(\S+)(?: \[(.*)\])?", item).groups()
        span, previous = find(prompt, noun, end), end
        end = span[1]
        gold[span] = {
            find(prompt, m, previous, span[0]) or find(prompt, m, end) for m in (modifiers or "").split(", ") if m
        }
    return prompt, gold


def find(prompt: str, word: str, start: int, end: int | None = None) -> Span | None:
    """The first occurrence of a whole word in a range."""
    match = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])").search(
        prompt, start, len(prompt) if end is None else end
    )
    return match and match.span()


def spans(entities: tuple[Entity, ...]) -> Gold:
    """A parse in the form of the annotation."""
    return {e.noun.span: {m.span for m in e.modifiers} for e in entities}


def score(gold: list[tuple[str, Gold]], found: list[Gold]) -> dict[str, float]:
    """F1 of entities and of (entity, modifier) pairs, and the share of prompts that are right throughout."""
    counts = {"entities": [0, 0, 0], "modifiers": [0, 0, 0]}
    for (_, right), parsed in zip(gold, found, strict=True):
        pairs = ({(e, m) for e, ms in side.items() for m in ms} for side in (right, parsed))
        for name, (a, b) in (("entities", (set(right), set(parsed))), ("modifiers", tuple(pairs))):
            counts[name] = [x + y for x, y in zip(counts[name], (len(a & b), len(a), len(b)), strict=True)]
    f1 = {name: 2 * both / max(a + b, 1) for name, (both, a, b) in counts.items()}
    return f1 | {"exact": sum(right == parsed for (_, right), parsed in zip(gold, found, strict=True)) / len(gold)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parser", default="embedded", help="embedded, or a spaCy pipeline's name or folder")
    parser.add_argument("--file", type=Path, default=Path(__file__).with_name("dev.txt"))
    arguments = parser.parse_args()
    gold = read(arguments.file)
    parses = [parse_prompt(prompt, arguments.parser) for prompt, _ in gold]
    for (prompt, right), parsed in zip(gold, parses, strict=True):
        if right != spans(parsed.entities):
            print(f"{prompt}\n    {[(e.noun.text, [m.text for m in e.modifiers]) for e in parsed.entities]}")
    print(json.dumps({k: round(v, 4) for k, v in score(gold, [spans(p.entities) for p in parses]).items()}))


if __name__ == "__main__":
    main()
