"""`attncontrol edit`: words of a prompt are changed, and the rest of the picture is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attncontrol.arguments import read_assignment, slug
from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.invert import check_text, inverted, save_picture
from attncontrol.cli.loading import check_targets, load_pipeline, step_progress
from attncontrol.models import DEFAULT_UNET, default_steps

INVERSION = ".safetensors"


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
    method: options.Inversion = "null-text",
    nouns: options.Nouns = None,
    seed: options.Seed = "random",
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
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    width: options.Width = None,
    height: options.Height = None,
    model: options.UNetModel = DEFAULT_UNET,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    output: options.Output = Path("outputs"),
    overwrite: options.Overwrite = False,
) -> None:
    """Edit a picture by changing words of its prompt.

    Writes the picture before and after. A picture of yours is inverted first and its inversion kept, so that the next
    edit is quick and an interrupted one goes on.
    """
    _check_source(
        image, prompt, to, seed, nouns, {"--width": width, "--height": height, "--guidance-scale": guidance_scale}
    )
    checks.check_run(width, height, model, device, output)
    steps, number = steps or default_steps(model), options.read_seed(seed)
    factors = _read_weights(weights)
    stem = f"{Path(image).stem if image else number}_{slug(to)}"
    before, after = output / f"{stem}_before.png", output / f"{stem}.png"
    check_targets([before, after], overwrite)
    guidance = options.read_guidance_scale(guidance_scale, model)
    inversion = _read_inversion(image)
    pipe = load_pipeline(model, device, dtype)
    common: dict[str, Any] = {"cross": cross, "self_attention": self_attention, "weights": factors}
    common["local"] = options.split_list(local)
    sampling: dict[str, Any] = {"height": height, "width": width}
    before_text = inversion.prompt if inversion else str(prompt)
    _check_words(pipe, before_text, to, common)
    source: Any = before_text
    call: dict[str, Any] = {}
    if image is None:
        if seed == "random":
            typer.echo(f"seed {number}")
        call = {"num_inference_steps": steps, "guidance_scale": guidance, "seed": number, **sampling}
    else:
        named = options.read_subjects(nouns)
        source = inversion or _inverted(pipe, image, before_text, method, steps, output, nouns=named,
                                        guidance_scale=guidance, **sampling)  # fmt: skip
        steps = source.steps
    with step_progress(1, steps) as advance:
        edited = pipe.edit(source, to, **common, **call, callback_on_step_end=_counting(advance))
    facts = {"to": to, "prompt": before_text, "image": image, **common, **call}
    for picture, path in ((edited.sources[0], before), (edited.images[0], after)):
        save_picture(picture, path, facts, overwrite)
        typer.echo(path)
    typer.echo(f"changed: {', '.join(change.text for change in edited.changes) or 'weights only'}")


def _check_source(
    image: str | None, prompt: str | None, to: str, seed: str, nouns: list[str] | None, own: Mapping[str, Any]
) -> None:
    """Raises ValueError for options that are missing, or that the source has itself; `own` are those of sampling."""
    with option("--to"):
        check_text(to)
    if image is None and nouns:
        raise ValueError("--nouns: they are learned of a picture: give IMAGE, or leave the option out")
    if image is not None:
        checks.check_picture(image)
        if seed != "random":
            raise ValueError("--seed: a picture has its own noise: leave the option out")
    if image is not None and Path(image).suffix == INVERSION:
        given = next((name for name, value in {"--prompt": prompt, "--nouns": nouns, **own}.items() if value), None)
        if given:
            raise ValueError(f"{given}: the inversion {image!r} has its own: leave the option out")
        return
    with option("--prompt"):
        check_text(prompt)


def _check_words(pipe: Any, prompt: str, to: str, common: Mapping[str, Any]) -> None:
    """Raises ValueError that names the option at fault, before a picture is inverted."""
    from attncontrol.editing.alignment import align_prompts
    from attncontrol.editing.arguments import read_factors, read_local, unet_family

    with option("--model"):
        family = unet_family(pipe)
    with option("--to"):
        changes = align_prompts(prompt, to, family.tokenizer, family.text_length).changes
        if not changes and not common["weights"]:
            raise ValueError(f"it says the same as --prompt ({prompt!r}): change a word, or give --weight")
    with option("--local"):
        read_local(prompt, to, common["local"], family)
    with option("--weight"):
        read_factors(to, common["weights"], family)


def _read_inversion(image: str | None) -> Any:
    """The inversion that the command line names; None if it names none."""
    if image is None or Path(image).suffix != INVERSION:
        return None
    from attncontrol.editing import Inversion

    with option("IMAGE"):
        return Inversion.load(image)


def _inverted(pipe: Any, image: str, prompt: str, method: str, steps: int, output: Path, **arguments: Any) -> Any:
    """An inversion that is kept beside the results."""
    path = output / f"{Path(image).stem}_{method}{INVERSION}"
    inversion = inverted(pipe, image, prompt, method, steps, path=path, **arguments)
    typer.echo(path)
    return inversion


def _counting(advance: Any) -> Any:
    def step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        advance(0)
        return tensors

    return step_end


def _read_weights(texts: list[str] | None) -> dict[str, float] | None:
    with option("--weight"):
        found = dict(read_assignment(text) for text in texts or ())
        for word, factor in found.items():
            if not isinstance(factor, int | float):
                raise ValueError(f"{word}={factor}: the factor must be a number, as in {word}=2")
    return found or None
