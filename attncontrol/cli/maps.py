"""`attncontrol maps`: where a model looks for every word of a prompt, without steering it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attncontrol.arguments import PLAIN, slug
from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.loading import check_targets, console, load_pipeline, step_progress
from attncontrol.models import DEFAULT_MODEL, default_steps


def maps(
    prompt: options.Prompt,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", metavar="NAMES", help="Which layers, as in 'up.0' or 'joint.4-11'; the model's default ones."
        ),
    ] = None,
    only_steps: Annotated[
        str | None, typer.Option("--only-steps", metavar="NUMBERS", help="Look at these steps only, as in '0,10,20'.")
    ] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Keep layers apart.")] = False,
    per_head: Annotated[bool, typer.Option("--per-head", help="Keep heads apart.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="MIB", help="Most memory of the maps.")] = 1024,
    negative_prompt: options.NegativePrompt = "",
    seed: options.Seed = "random",
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    width: options.Width = None,
    height: options.Height = None,
    model: options.Model = DEFAULT_MODEL,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    output: options.Output = Path("outputs"),
    overwrite: options.Overwrite = False,
) -> None:
    """Draw a plain image and show where the model looked for every word.

    The maps are saved as safetensors [steps, layers, heads, words, height, width], and over the image as a picture
    with a row for every layer that is kept apart.
    """
    steps = steps or default_steps(model)
    checks.check_prompt(prompt)
    checks.check_run(width, height, model, device, output)
    chosen, number = _numbers(only_steps, steps), options.read_seed(seed)
    with console.status("starting"):
        guidance = options.read_guidance_scale(guidance_scale, model)
        options.check_negative_prompt(negative_prompt, model)

        from safetensors.torch import save_file

        from attncontrol.guidance.looking import MapSettings
        from attncontrol.images.drawing import Request, draw
        from attncontrol.images.recipe import save_image
        from attncontrol.images.sampling import Sampling

    stem = output / f"{slug(prompt)}_maps_{number}"
    arrays, picture = stem.with_suffix(".safetensors"), stem.with_suffix(".png")
    check_targets([arrays, picture], overwrite)
    with option("--layers"):
        settings = MapSettings(layers, chosen, per_layer, per_head, limit * 2**20)
    sampling = Sampling(steps, guidance, negative_prompt, width, height)
    request = Request(model, prompt, sampling, maps=settings)
    pipe = load_pipeline(model, device, dtype)
    with step_progress(1, steps) as advance:
        drawn = draw(pipe, request, options.read_control(PLAIN, {}, model), number, advance)
    assert drawn.record is not None and drawn.record.word_maps is not None  # it was asked for
    found = drawn.record.word_maps
    output.mkdir(parents=True, exist_ok=True)
    about = {"prompt": prompt, "seed": number, "words": found.words, "steps": found.steps, "layers": found.layers}
    save_file({"maps": found.maps}, arrays, metadata={name: _json(value) for name, value in about.items()})
    save_image(_picture(drawn.image, found, prompt), picture, [drawn.recipe], overwrite=overwrite)
    shape = "x".join(map(str, found.maps.shape))
    typer.echo(f"{arrays}  {shape}: steps, layers, heads, words, height, width")
    typer.echo(picture)


def _numbers(text: str | None, steps: int) -> list[int] | None:
    """The steps of `--only-steps`. Raises ValueError for others than there are."""
    if text is None:
        return None
    parts = options.split_list(text)
    if not parts or not all(part.isdecimal() and int(part) < steps for part in parts):
        raise ValueError(f"--only-steps: {text!r} must be numbers from 0 to {steps - 1}, separated by commas")
    return [int(part) for part in parts]


def _json(value) -> str:
    import json

    return json.dumps(value)


def _picture(image, found, prompt: str):
    """The image, and every word's map over it, the mean over steps and heads; a row for each layer kept apart."""
    from attncontrol.images.visualize import labelled_grid, overlay

    means = found.maps.mean((0, 2))
    rows = [[image, *(overlay(image, word) for word in layer)] for layer in means]
    titles = found.layers if len(rows) > 1 else ()
    return labelled_grid(rows, row_titles=titles, column_titles=["", *found.words], caption=prompt)
