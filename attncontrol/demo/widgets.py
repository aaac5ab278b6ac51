"""Components of our own: a script that owns the content of a gr.HTML and keeps its value, plain JSON."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gradio as gr

from attncontrol.arguments import PLAIN
from attncontrol.demo.studio import Studio
from attncontrol.demo.verdicts import is_unknown
from attncontrol.layout import read_layout
from attncontrol.losses.base import Method
from attncontrol.losses.combining import resolve_control
from attncontrol.prompt.align import tokenize
from attncontrol.prompt.structure import PromptStructure
from attncontrol.prompt.subjects import WORD

FOLDER = Path(__file__).with_name("widgets")


def widget(name: str, value: Any, inside: str = "", **options: Any) -> gr.HTML:
    """The component whose script is widgets/NAME.js; `inside` is what is there before the script runs.

    The script gets `element`, `props` (the value and other options), `watch` and `trigger`.
    """
    script = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    return gr.HTML(
        value,
        html_template=f'<div class="{name}">{inside}</div>',
        js_on_load=script,
        apply_default_css=False,
        elem_id=options.pop("elem_id", name),
        **options,
    )


def settings_form(studio: Studio, control: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The value of the settings form of a method or a sum: its settings as form fields, with these values.

    {"method", "fields": [{"name", "kind", "help", "default", "choices", "least", "most"}], "values"}; kind is
    "number", "yes", "choice" or "text" (for tuples, mappings and whatever may be None). Names are "method.setting" in
    a sum. Raises ValueError for an unknown method.
    """
    methods = resolve_control(None if control == PLAIN else control, studio.tuned)
    fields = {}
    for _, method in methods.parts:
        prefix = f"{method.name}." if len(methods.parts) > 1 else ""
        for name, default in method.settings().items():
            fields[prefix + name] = _form_field(type(method), name, default) | {"name": prefix + name}
    given = {name: (values or {}).get(name, field["default"]) for name, field in fields.items()}
    shown = {name: _text(given[name]) if field["kind"] == "text" else given[name] for name, field in fields.items()}
    return {"method": control, "fields": list(fields.values()), "values": shown}


def _form_field(cls: type[Method], name: str, default: Any) -> dict[str, Any]:
    metadata = cls.__dataclass_fields__[name].metadata
    kind, choices = _kind(get_type_hints(cls)[name])
    return {
        "kind": kind,
        "help": metadata["help"],
        "default": _text(default) if kind == "text" else default,
        "choices": choices,
        "least": metadata.get("at_least"),
        "most": metadata.get("at_most"),
    }


def _kind(annotation: Any) -> tuple[str, list[Any]]:
    if get_origin(annotation) is Literal:
        return "choice", list(get_args(annotation))
    return {bool: "yes", int: "number", float: "number"}.get(annotation, "text"), []


def _text(value: Any) -> str:
    """A setting as `read_assignment` reads it."""
    if value is None or isinstance(value, str):
        return value or PLAIN
    return json.dumps(value)


def word_groups(studio: Studio, prompt: str, structure: PromptStructure) -> dict[str, Any]:
    """The value of the subjects' component.

    {"prompt", "words": [{"text", "pieces", "indices", "unknown"}], "groups": [{"noun": word, "modifiers": [words]}],
    "edited", "tokens", "kept", "parser"}; `words` covers the prompt, `indices` is empty where the text encoder cuts it
    off, `unknown` says that the model was never taught the word, words are numbered from 0.
    """
    tokenized = tokenize(studio.tokenizer, prompt)
    spans = _word_spans(prompt, structure)
    words = []
    for span in spans:
        positions = [i for i, s in enumerate(tokenized.spans) if s is not None and s[0] < span[1] and span[0] < s[1]]
        pieces = [tokenized.pieces[i].removesuffix("</w>").removeprefix("▁") for i in positions]
        text, indices = prompt[slice(*span)], list(tokenized.token_indices(span))
        unknown = is_unknown(studio.model, text)
        words.append({"text": text, "pieces": pieces, "indices": indices, "unknown": unknown})
    groups = [
        {"noun": spans.index(entity.noun.span), "modifiers": [spans.index(word.span) for word in entity.modifiers]}
        for entity in structure.entities
        if entity.noun.span
    ]
    return {
        "prompt": prompt,
        "words": words,
        "groups": groups,
        "edited": structure.backend == "subjects",
        "tokens": len(tokenized.pieces),
        "kept": tokenized.n_tokens,
        "parser": structure.backend,
    }


def _word_spans(prompt: str, structure: PromptStructure) -> list[tuple[int, int]]:
    """Where the prompt's words stand; those of the structure as they are, the rest split at spaces and punctuation."""
    fixed = {w.span for entity in structure.entities for w in (entity.noun, *entity.modifiers) if w.span}
    others = (match.span() for match in WORD.finditer(prompt))
    free = {span for span in others if not any(span[0] < end and start < span[1] for start, end in fixed)}
    return sorted(fixed | free)


def carried_over(before: Any, after: dict[str, Any]) -> dict[str, Any]:
    """The groups of an edited prompt: those a visitor chose before, as far as their words survive, and new things.

    `before` and `after` are values of the subjects' component, `after` with the groups that the parser found. Words
    survive where the longest common runs of words are; a group whose noun is gone goes with it.
    """
    if not isinstance(before, dict) or not before.get("edited") or not before.get("words"):
        return after
    old, new = ([word["text"].lower() for word in value["words"]] for value in (before, after))
    moved: dict[int, int] = {}
    for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        moved |= {block.a + i: block.b + i for i in range(block.size)}
    kept = [
        {"noun": moved[group["noun"]], "modifiers": sorted(moved[i] for i in group["modifiers"] if i in moved)}
        for group in before["groups"]
        if group["noun"] in moved
    ]
    if not kept:
        return after
    survivors = set(moved.values())
    added = [group for group in after["groups"] if survivors.isdisjoint([group["noun"], *group["modifiers"]])]
    return {**after, "groups": sorted(kept + added, key=lambda group: group["noun"]), "edited": True}


def edited_subjects(value: Any, prompt: str) -> list[Any] | None:
    """The subjects a visitor chose by clicking, as token indices; None if they are to be parsed from the prompt."""
    if not isinstance(value, dict) or not value.get("edited") or value.get("prompt") != prompt:
        return None
    words = value["words"]
    return [
        [words[i]["indices"] for i in (*group["modifiers"], group["noun"]) if words[i]["indices"]]
        for group in value["groups"]
    ]


def empty_layout() -> dict[str, Any]:
    """The value of the layout editor: {"boxes": [{"phrase", "box": [x0, y0, x1, y1]}], "phrases", "aspect"}."""
    return {"boxes": [], "phrases": [], "aspect": 1.0}


def layout_of(value: Any) -> dict[str, list[list[float]]] | None:
    """The editor's boxes as the library takes them, None without any. Raises ValueError for a box without a name."""
    boxes = value.get("boxes") if isinstance(value, dict) else None
    layout: dict[str, list[list[float]]] = {}
    for number, item in enumerate(boxes or (), 1):
        phrase = str(item.get("phrase") or "").strip()
        if not phrase:
            raise ValueError(f"box {number} has no name: choose the words of the prompt that it stands for.")
        layout.setdefault(phrase, []).append(item.get("box"))
    return layout or None


def boxes_of(layout: Any) -> list[dict[str, Any]]:
    """The editor's boxes from a layout without files, in any form that `read_layout` takes; none for None."""
    placed = read_layout(layout) if layout else ()
    return [{"phrase": item.phrase, "box": list(box)} for item in placed for box in item.regions]
