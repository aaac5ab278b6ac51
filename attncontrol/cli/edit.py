"""`attncontrol edit`: words of a prompt are changed, and the rest of the picture is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attncontrol.arguments import read_assignment, slug
from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.invert import Method, Nouns, inverted, save_picture
from attncontrol.cli.loading import check_targets, load_pipeline, step_progress


def edit(
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGE",
            help="A picture, or an inversion from `attncontrol invert`; without one the prompt is drawn.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What the picture shows; an inversion knows it.", show_default=False),
    ] = None,
    to: Annotated[str, typer.Option("--to", help="What it should show instead.", show_default=False)] = "",
    method: Method = "null-text",
    nouns: Nouns = None,
    seed: Annotated[
        str, typer.Option("--seed", metavar="NUMBER", help="Of the drawn picture; or 'random'.")
    ] = "random",
    cross: Annotated[
        float, typer.Option("--cross", min=0, max=1, help="Fraction of steps with the picture's cross-attention.")
    ] = 0.8,
    self_attention: Annotated[
        float, typer.Option("--self-attention", min=0, max=1, help="The same for self-attention, which keeps shapes.")
    ] = 0.4,
    local: Annotated[
        str, typer.Option("--local", metavar="WORDS", help="Change only where these words look, as in 'car, cat'.")
    ] = "",
    weights: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="WORD=FACTOR", help="Multiply the attention of a word of --to."),
    ] = None,
    steps: options.Steps = 30,
    guidance_scale: options.GuidanceScale = None,
    width: options.Width = None,
    height: options.Height = None,
    model: options.Model = "emoji",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    output: options.Output = Path("outputs"),
    overwrite: options.Overwrite = False,
) -> None:
    """Edit a picture by changing words of its prompt.

    Writes the picture before and after. A picture of yours is inverted first and its inversion kept, so that the next
    edit is quick and an interrupted one goes on.
    """
    saved = image is not None and Path(image).suffix == ".safetensors"
    for name, text in (("--to", to), ("--prompt", "an inversion knows it" if saved else prompt)):
        with option(name):
            _check_text(text)
    checks.check_size(width, height)
    checks.check_model(model)
    checks.check_folder(output)
    number = options.read_seed(seed)
    factors = _read_weights(weights)
    stem = f"{Path(image).stem if image else number}_{slug(to)}"
    before, after = output / f"{stem}_before.png", output / f"{stem}.png"
    check_targets([before, after], overwrite)
    guidance = options.read_guidance_scale(guidance_scale, model)
    pipe = load_pipeline(model, device, dtype)
    common: dict[str, Any] = {"cross": cross, "self_attention": self_attention, "weights": factors}
    common["local"] = [word.strip() for word in local.split(",") if word.strip()]
    sampling: dict[str, Any] = {"height": height, "width": width}
    if image is None:
        if seed == "random":
            typer.echo(f"seed {number}")
        source: Any = prompt
        call = {"num_inference_steps": steps, "guidance_scale": guidance, "seed": number, **sampling}
    else:
        source, call = _source(pipe, image, prompt, method, steps, guidance, nouns, output, sampling), {}
        steps = source.steps
    with step_progress(1, steps) as advance:
        edited = pipe.edit(source, to, **common, **call, callback_on_step_end=_counting(advance))
    facts = {
        "to": to,
        "prompt": source if isinstance(source, str) else source.prompt,
        "image": image,
        **common,
        **call,
    }
    for picture, path in ((edited.sources[0], before), (edited.images[0], after)):
        save_picture(picture, path, facts, overwrite)
        typer.echo(path)
    typer.echo(f"changed: {', '.join(change.text for change in edited.changes) or 'weights only'}")


def _source(
    pipe: Any, image: str, prompt: str | None, method: str, steps: int, guidance: float, nouns: list[str] | None,
    output: Path, size: Mapping[str, Any],
) -> Any:  # fmt: skip
    """The inversion of the command line: read, or made and kept beside the results."""
    if Path(image).suffix == ".safetensors":
        from attncontrol.editing import Inversion

        return Inversion.load(image)
    path = output / f"{Path(image).stem}_{method}.safetensors"
    inversion = inverted(
        pipe, image, str(prompt), method, steps, guidance_scale=guidance, nouns=options.read_subjects(nouns),
        path=path, **size,
    )  # fmt: skip
    typer.echo(path)
    return inversion


def _counting(advance: Any) -> Any:
    def step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        advance(None)
        return tensors

    return step_end


def _check_text(text: str | None) -> None:
    if text is None or not text.strip():
        raise ValueError("write what the picture shows, before and after, as in --prompt 'a cat' --to 'a dog'")


def _read_weights(texts: list[str] | None) -> dict[str, float] | None:
    with option("--weight"):
        found = dict(read_assignment(text) for text in texts or ())
        for word, factor in found.items():
            if not isinstance(factor, int | float):
                raise ValueError(f"{word}={factor}: the factor must be a number, as in {word}=2")
    return found or None
