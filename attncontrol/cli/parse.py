"""`attncontrol parse`: what the library reads in a prompt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.models import DEFAULT_MODEL, resolve


def parse(prompt: options.Prompt, subjects: options.Subjects = None, model: options.Model = DEFAULT_MODEL) -> None:
    """Show what the library reads in a prompt.

    Its entities, their modifiers and token indices, and the words that each method works on.
    """
    named = options.read_subjects(subjects)
    if not prompt.strip():
        raise ValueError("PROMPT: it is empty: there is nothing to parse")
    checks.check_model(model)
    from attncontrol.losses import create_method, method_classes
    from attncontrol.prompt import structure_of
    from attncontrol.prompt.align import tokenize

    tokenizer = _tokenizer(model)
    with option("--subjects" if named else "PROMPT"):
        structure = structure_of(prompt, tokenizer, named)
    tokenized = tokenize(tokenizer, prompt)
    typer.echo(f"parser    {structure.backend}")
    typer.echo("tokens    " + " ".join(f"{i}:{_text(tokenized, [i])}" for i in tokenized.positions()))
    for entity in structure.entities:
        modifiers = ", ".join(_word(word) for word in entity.modifiers)
        typer.echo(f"entity    {_word(entity.noun)}" + (f"  modified by {modifiers}" if modifiers else ""))
    for left_out in structure.left_out:
        typer.echo(f"left out  {left_out.noun.text}: {left_out.reason}; --subjects names it all the same")
    if not structure.entities:
        typer.echo("entity    none found: name them with --subjects")
    typer.echo("")
    for name in method_classes():
        typer.echo(f"{name:<21} {_use(create_method(name), structure, tokenized)}")


def _word(word) -> str:
    return f"{word.text} {list(word.token_indices)}"


def _use(method, structure, tokenized) -> str:
    """Which words a method works on in this prompt, or why it does not."""
    from attncontrol.losses import Context

    context = Context(structure, 0, 1)
    groups = "; ".join(" ".join(_words(tokenized, group)) for group in method.focus(context))
    if method.needs_layout:
        return f"{groups}, those that a layout places" if groups else "needs a layout"
    try:
        method.check(context)
    except ValueError as error:
        return str(error)
    return groups or "leaves this prompt as it is"


def _words(tokenized, group: list[int]) -> list[str]:
    """Token positions as words: "red[2]", "sombrero[6-7]"; pieces may be bytes of one character."""
    words: list[list[int]] = []
    for i in group:
        last = words[-1][-1] if words else None
        if last == i - 1 and tokenized.spans[i][0] <= tokenized.spans[last][1]:
            words[-1].append(i)
        else:
            words.append([i])
    return [f"{_text(tokenized, w)}[{w[0]}{f'-{w[-1]}' if len(w) > 1 else ''}]" for w in words]


def _text(tokenized, indices: list[int]) -> str:
    """What the prompt has at these positions."""
    return tokenized.prompt[tokenized.spans[indices[0]][0] : tokenized.spans[indices[-1]][1]]


def _tokenizer(model: str):
    path = resolve(model)
    try:
        index = _index(path)
        if "transformer" in index:
            return _of_transformer(path, index)
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(path, subfolder="tokenizer")
    except (OSError, ValueError) as error:
        raise ValueError(f"--model: no words can be found for {model!r}: {error}") from error


def _index(path: str) -> dict[str, Any]:
    """The parts of a checkpoint, read without diffusers, whose import takes longer than all the rest."""
    from huggingface_hub import hf_hub_download

    file = os.path.join(path, checks.INDEX) if os.path.exists(path) else hf_hub_download(path, checks.INDEX)
    return json.loads(Path(file).read_text(encoding="utf-8"))


def _of_transformer(path: str, index) -> object:
    """What finds words among the text keys, from configurations and tokenizers alone: no weights are loaded."""
    import diffusers
    import torch

    from attncontrol.families import family_of

    diffusers.utils.logging.disable_progress_bar()
    parts = {name: part for name, part in index.items() if isinstance(part, list) and part[1] is not None}
    needed = [name for name in parts if name.startswith(("tokenizer", "processor"))]
    pipe = diffusers.DiffusionPipeline.from_pretrained(path, **dict.fromkeys(parts.keys() - {*needed}))
    kind = getattr(diffusers, index["transformer"][1])
    with torch.device("meta"):
        pipe.transformer = kind.from_config(kind.load_config(path, subfolder="transformer"))
    return family_of(pipe).tokenizer
