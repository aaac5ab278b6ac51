"""`attncontrol generate`: images of one prompt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN, slug
from attncontrol.cli import checks, options
from attncontrol.cli.loading import check_targets, console, load_pipeline, step_progress
from attncontrol.models import DEFAULT_MODEL, default_steps


def generate(
    prompt: options.Prompt,
    control: options.Control = DEFAULT_CONTROL,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the method, as in step_size=15 or syngen.step_size=15."
        ),
    ] = None,
    subjects: options.Subjects = None,
    layout: options.LayoutFile = None,
    grounding: options.Grounding = None,
    grounding_beta: options.GroundingBeta = None,
    negative_prompt: options.NegativePrompt = "",
    seed: Annotated[
        str, typer.Option("--seed", metavar="NUMBER", help="Of the first image, the next ones count on; or 'random'.")
    ] = "random",
    images: Annotated[int, typer.Option("--images", min=1, help="How many.")] = 1,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    width: options.Width = None,
    height: options.Height = None,
    model: options.Model = DEFAULT_MODEL,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    memory: options.Memory = "auto",
    output: options.Output = Path("outputs"),
    maps: Annotated[
        bool, typer.Option("--maps", help="Also save each subject's attention map over the image.")
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw images of a prompt under control.

    Every PNG carries its whole recipe: prompt, seed, model, method, settings, subjects, versions.
    """
    steps = steps or default_steps(model)
    checks.check_prompt(prompt)
    checks.check_controls("--control", [control])
    checks.check_layout(layout, [control])
    checks.check_run(width, height, model, device, output)
    checks.check_grounding(grounding, layout, model)
    named, assignments = options.read_subjects(subjects), options.read_settings(settings)
    checks.check_settings(control, assignments)
    first = options.read_seed(seed)
    if control == PLAIN and (named or layout) and not (maps or grounding):
        raise ValueError(f"--control: {PLAIN!r} makes no use of --subjects and --layout")
    with console.status("starting"):
        methods = options.read_control(control, assignments, model)
        guidance = options.read_guidance_scale(guidance_scale, model)
        options.check_negative_prompt(negative_prompt, model)
        placed = options.read_layout_option(layout)
        gates = options.read_grounding_option(grounding, grounding_beta)

        from attncontrol.images.drawing import Request, draw
        from attncontrol.images.recipe import save_image
        from attncontrol.images.sampling import Sampling
        from attncontrol.losses.combining import control_name

    stem = "_".join([slug(prompt), slug(control_name(methods)), *([grounding] if grounding else [])])
    paths = {number: output / f"{stem}_{number}.png" for number in range(first, first + images)}
    check_targets([p for path in paths.values() for p in ((path, _maps_path(path)) if maps else (path,))], overwrite)
    sampling = Sampling(steps, guidance, negative_prompt, width, height)
    request = Request(model, prompt, sampling, named, layout, placed, maps, memory, gates)
    if seed == "random":
        typer.echo(f"seed {first}")
    pipe = load_pipeline(model, device, dtype)
    start = time.perf_counter()
    with step_progress(images, steps) as advance:
        for number, path in paths.items():
            drawn = draw(pipe, request, methods, number, advance)
            save_image(drawn.image, path, drawn.recipe, overwrite=overwrite)
            typer.echo(f"{path}  {_summary(drawn)}")
            if maps:
                save_image(_maps_picture(drawn), _maps_path(path), [drawn.recipe], overwrite=overwrite)
                typer.echo(_maps_path(path))
    seconds = time.perf_counter() - start
    typer.echo(f"{images} image{'s' if images > 1 else ''} in {seconds:.1f} s, in {output}")


def _maps_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_maps.png")


def _summary(drawn) -> str:
    """What was guided: "guided cat [2], red frog [6], 12 refinements"."""
    if not drawn.recipe.control:
        return "grounded" if drawn.recipe.grounding else "plain"
    subjects = ", ".join(f"{s['text']} {s['noun']['token_indices']}" for s in drawn.recipe.subjects)
    refinements = drawn.record.refinements
    left_out = [noun for noun, reason in drawn.record.left_out.items() if reason == "negated"]
    parts = [f"guided {subjects or 'nothing'}", f"{refinements} refinements" if refinements else ""]
    if (pictures := len(drawn.record.tries)) > 1:
        parts.append(f"best of {pictures} pictures")
    return ", ".join(part for part in (*parts, f"not {', '.join(left_out)}" if left_out else "") if part)


def _maps_picture(drawn):
    from attncontrol.images.visualize import labelled_grid, overlay, subject_maps

    maps = subject_maps(drawn.record)
    row = [drawn.image, *(overlay(drawn.image, attention) for attention in maps.values())]
    return labelled_grid([row], column_titles=[f"seed {drawn.recipe.seed}", *maps], caption=drawn.recipe.prompt)
