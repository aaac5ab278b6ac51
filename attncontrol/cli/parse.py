"""`attncontrol parse`: what the library reads in a prompt."""

from __future__ import annotations

import typer

from attncontrol.cli import options
from attncontrol.cli.errors import option


def parse(prompt: options.Prompt, subjects: options.Subjects = None, model: options.Model = "emoji") -> None:
    """Show what the library reads in a prompt.

    Its entities, their modifiers and token indices, and the words that each method works on.
    """
    named = options.read_subjects(subjects)
    if not prompt.strip():
        raise ValueError("PROMPT: it is empty: there is nothing to parse")
    from attncontrol.losses import create_method, method_classes
    from attncontrol.prompt import structure_of

    tokenizer = _tokenizer(model)
    with option("--subjects" if named else "PROMPT"):
        structure = structure_of(prompt, tokenizer, named)
    pieces = _pieces(tokenizer, prompt)[: structure.n_tokens - 1]
    typer.echo(f"parser    {structure.backend}")
    typer.echo("tokens    " + " ".join(f"{i}:{piece}" for i, piece in enumerate(pieces) if i))
    for entity in structure.entities:
        modifiers = ", ".join(_word(word) for word in entity.modifiers)
        typer.echo(f"entity    {_word(entity.word)}" + (f"  modified by {modifiers}" if modifiers else ""))
    if not structure.entities:
        typer.echo("entity    none found: name them with --subjects")
    typer.echo("")
    for name in method_classes():
        typer.echo(f"{name:<21} {_use(create_method(name), structure, pieces)}")


def _word(word) -> str:
    return f"{word.text} {list(word.token_indices)}"


def _use(method, structure, pieces: list[str]) -> str:
    """Which words a method works on in this prompt, or why it does not."""
    from attncontrol.losses import Context

    if method.needs_layout:
        return "needs a layout"
    context = Context(structure, 0, 1)
    try:
        method.check(context)
    except ValueError as error:
        return str(error)
    groups = method.focus(context)
    if not groups:
        return "leaves this prompt as it is"
    return "; ".join(" ".join(f"{pieces[i]}[{i}]" for i in group) for group in groups)


def _tokenizer(model: str):
    from transformers import CLIPTokenizer

    from attncontrol.models import resolve

    try:
        return CLIPTokenizer.from_pretrained(resolve(model), subfolder="tokenizer")
    except (OSError, ValueError) as error:
        raise ValueError(f"--model: no CLIP tokenizer in {model!r}: {error}") from error


def _pieces(tokenizer, prompt: str) -> list[str]:
    """The tokens as text, start of text first."""
    ids = tokenizer(prompt, truncation=False).input_ids
    return [piece.removesuffix("</w>") for piece in tokenizer.convert_ids_to_tokens(ids)]
