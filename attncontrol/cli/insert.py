"""`attncontrol insert`: a new thing is put into a scene, and the rest of the picture is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attncontrol.arguments import slug
from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.invert import save_picture
from attncontrol.cli.loading import check_targets, load_pipeline, step_progress
from attncontrol.models import DEFAULT_MODEL


def insert(
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGE", help="A picture: PNG, JPEG, WebP; without one the prompt is drawn.", show_default=False
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", help="What the picture shows, or is to show first.", show_default=False)
    ] = "",
    thing: Annotated[str, typer.Option("--thing", help="What to insert, as 'a cat'.", show_default=False)] = "",
    to: Annotated[
        str | None,
        typer.Option("--to", help="What it should show then, with the thing; 'PROMPT and THING' if absent."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of Add-it, as in gamma=1.1 or blend=[]."),
    ] = None,
    seed: Annotated[
        str, typer.Option("--seed", metavar="NUMBER", help="Of the drawn picture and its noise; or 'random'.")
    ] = "random",
    seed_target: Annotated[
        str | None,
        typer.Option("--seed-target", metavar="NUMBER", help="Of the new picture's noise; that of --seed if absent."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=1000, help="Sampling steps; the model's by default, else 30.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", help="Of the model's embedding; its own by default, else 3.5.")
    ] = None,
    width: options.Width = None,
    height: options.Height = None,
    model: Annotated[
        str, typer.Option("--model", metavar="ID", help="'emoji-flux', the bundled one, or a FLUX.1 id or folder.")
    ] = DEFAULT_MODEL,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    output: options.Output = Path("outputs"),
    overwrite: options.Overwrite = False,
) -> None:
    """Insert a thing into a picture, drawn or yours (Add-it, with FLUX).

    Writes the picture before and after.
    """
    for name, text, example in (("--prompt", prompt, "a red car"), ("--thing", thing, "a cat")):
        if not text.strip():
            raise ValueError(f"{name}: it is empty: write for instance {name} {example!r}")
    checks.check_run(width, height, model, device, output)
    number = options.read_seed(seed)
    with option("--seed-target"):
        number_target = None if seed_target is None else options.read_seed(seed_target)
    assignments = options.read_settings(settings)
    stem = f"{Path(image).stem if image else number}_{slug(to or f'{prompt} and {thing}')}"
    before, after = output / f"{stem}_before.png", output / f"{stem}.png"
    check_targets([before, after], overwrite)
    pipe = load_pipeline(model, device, dtype)
    if image is None and seed == "random":
        typer.echo(f"seed {number}")
    facts: dict[str, Any] = {
        "prompt_target": to, "seed": number, "seed_target": number_target, "settings": assignments,
        "num_inference_steps": steps, "guidance_scale": guidance_scale, "height": height, "width": width,
    }  # fmt: skip
    source = {"source": prompt} if image is None else {"source": image, "prompt": prompt}
    with step_progress(1, _calls(pipe, assignments, steps, image is not None)) as advance:
        made = pipe.insert(**source, thing=thing, **facts, on_step=lambda done, total: advance(0))
    facts = {**facts, "prompt": prompt, "image": image, "thing": thing, "prompt_target": made.prompt}
    for picture, path in ((made.sources[0], before), (made.images[0], after)):
        save_picture(picture, path, facts, overwrite)
        typer.echo(path)
    where = "" if made.mask is None else f", in {made.mask.mean().item():.0%} of the picture"
    typer.echo(f"inserted: {thing}{where}, gamma {made.gamma:.3g}")


def _calls(pipe: Any, assignments: dict[str, Any], steps: int | None, is_picture: bool) -> int:
    """How many calls of the model the progress bar counts."""
    from attncontrol.insertion.arguments import flux_family, read_call, read_settings

    with option("--model"):
        flux_family(pipe)
    with option("--set"):
        chosen = read_settings(pipe, assignments, is_picture)
    given = {"num_inference_steps": steps, "guidance_scale": None, "max_sequence_length": None, "height": None,
             "width": None}  # fmt: skip
    return chosen.calls(read_call(pipe, given)["num_inference_steps"], is_picture)
