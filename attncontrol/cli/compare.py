"""`attncontrol compare`: plain sampling and methods side by side, on the same seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN, read_seeds, slug
from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.loading import check_targets, console, load_pipeline, step_progress
from attncontrol.models import BUNDLED, DEFAULT_MODEL, default_steps


def compare(
    prompt: options.Prompt,
    controls: Annotated[
        str,
        typer.Option(
            "--controls",
            metavar="METHODS",
            help="Methods to compare, separated by commas; each may be a sum as in 'conform + 0.5*syngen'.",
        ),
    ] = DEFAULT_CONTROL,
    seeds: Annotated[str, typer.Option("--seeds", metavar="NUMBERS", help="One row each.")] = "0,1,2",
    subjects: options.Subjects = None,
    layout: options.LayoutFile = None,
    negative_prompt: options.NegativePrompt = "",
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    width: options.Width = None,
    height: options.Height = None,
    model: options.Model = DEFAULT_MODEL,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    memory: options.Memory = "auto",
    output: options.Output = Path("outputs"),
    maps: Annotated[bool, typer.Option("--maps", help="Add each subject's attention map over the image.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw without and with control, side by side.

    One labelled picture: a row per seed, a column per method.
    Maps of one subject and seed share a scale, so they can be compared from column to column.
    """
    names = [name for name in options.split_list(controls) if name != PLAIN]
    if not names:
        raise ValueError("--controls: name at least one method; `attncontrol methods` lists them")
    steps = steps or default_steps(model)
    checks.check_prompt(prompt)
    checks.check_controls("--controls", names)
    checks.check_layout(layout, names)
    checks.check_run(width, height, model, device, output)
    with option("--seeds"):
        numbers = read_seeds(seeds)
    named = options.read_subjects(subjects)
    path = output / f"{slug(prompt)}_compare.png"
    check_targets([path], overwrite)
    with console.status("starting"):
        columns = [options.read_control(name, {}, model) for name in (PLAIN, *names)]
        guidance = options.read_guidance_scale(guidance_scale, model)
        options.check_negative_prompt(negative_prompt, model)
        placed = options.read_layout_option(layout)

        from attncontrol.images.drawing import Request, draw
        from attncontrol.images.recipe import save_image
        from attncontrol.images.sampling import Sampling
        from attncontrol.losses.combining import control_names

    sampling = Sampling(steps, guidance, negative_prompt, width, height)
    request = Request(model, prompt, sampling, named, layout, placed, maps, memory)
    pipe = load_pipeline(model, device, dtype)
    with step_progress(len(numbers) * len(columns), steps) as advance:
        drawn = [[draw(pipe, request, methods, number, advance) for methods in columns] for number in numbers]
    titles = control_names(columns, (PLAIN, *names))
    recipes = [one.recipe for row in drawn for one in row]
    save_image(_picture(prompt, titles, numbers, drawn, maps), path, recipes, overwrite=overwrite)
    for line in _verdicts(model, prompt, titles, numbers, drawn):
        typer.echo(line)
    typer.echo(f"{path}  {len(numbers)} seeds, {', '.join(titles)}")


def _verdicts(model: str, prompt: str, titles: list[str], numbers: list[int], drawn) -> Iterator[str]:
    """What the oracle sees in every image, for a model of its world: "seed 0  plain  cat: yes, red frog: no"."""
    if model not in BUNDLED:
        return
    from attncontrol.evaluation import oracle

    try:
        expected = oracle.expected_from_prompt(prompt)
    except ValueError:  # the prompt names nothing that the oracle knows
        return
    names = [f"{colour} {name}" if colour else name for name, colour in expected]
    for number, row in zip(numbers, drawn, strict=True):
        for title, one in zip(titles, row, strict=True):
            right = oracle.verdict(expected, one.image).coloured
            seen = ", ".join(f"{name}: {'yes' if yes else 'no'}" for name, yes in zip(names, right, strict=True))
            yield f"seed {number}  {title}  {seen}"


def _picture(prompt: str, titles: list[str], numbers: list[int], drawn, maps: bool):
    from attncontrol.images.visualize import labelled_grid

    rows, row_titles = [], []
    for number, row in zip(numbers, drawn, strict=True):
        rows.append([one.image for one in row])
        row_titles.append(f"seed {number}")
        if maps:
            overlays = _overlays(row)
            rows += overlays.values()
            row_titles += overlays
    return labelled_grid(rows, row_titles=row_titles, column_titles=titles, caption=prompt)


def _overlays(row) -> dict[str, list]:
    """For every subject its map over each image of a row, hottest where the largest of these maps is."""
    from attncontrol.images.visualize import overlay, subject_maps

    maps = [subject_maps(one.record) for one in row]
    peaks = {subject: max(float(m[subject].max()) for m in maps) for subject in maps[0]}
    return {
        subject: [overlay(one.image, m[subject], peak=peak) for one, m in zip(row, maps, strict=True)]
        for subject, peak in peaks.items()
    }
