"""`attncontrol batch`: images for whole prompt files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attncontrol.arguments import DEFAULT_CONTROL
from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.loading import console
from attncontrol.models import DEFAULT_MODEL, default_steps, heeds_negative_prompt, stock_pipeline

if TYPE_CHECKING:
    from attncontrol.batch import Counts, OutputFolder, Plan, WorkerSettings

REPORT_SECONDS = 30.0


def batch(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Prompt files: text, CSV, TSV, JSON, YAML, GenEval metadata; '-' reads the input."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", file_okay=False, help="Folder for the results.")],
    control: Annotated[
        str, typer.Option("--control", metavar="METHOD", help="For rows that name none; 'none' is plain sampling.")
    ] = DEFAULT_CONTROL,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of that method.")
    ] = None,
    grounding: options.Grounding = None,
    grounding_beta: options.GroundingBeta = None,
    negative_prompt: options.NegativePrompt = "",
    prompt_column: Annotated[
        str | None, typer.Option("--prompt-column", metavar="NAME", help="The column or key that holds the prompts.")
    ] = None,
    seed: Annotated[
        str,
        typer.Option(
            "--seed", metavar="NUMBER", help="Of each row's first image, the next ones count on; or 'random'."
        ),
    ] = "0",
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", help="How many.")] = 1,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    width: options.Width = None,
    height: options.Height = None,
    model: options.Model = DEFAULT_MODEL,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; a GPU if there is one by default.")
    ] = None,
    dtype: options.Dtype = "float32",
    memory: options.Memory = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images made at once.")] = 8,
    maps: Annotated[bool, typer.Option("--maps", help="Also save attention overlays (slower).")] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out rows with errors instead of refusing the files.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the jobs and what they would cost.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first jobs.")] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Only part I of N, from 1 on; in a DIR of its own.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait if another run is writing to DIR.")] = False,
    contact_sheets: Annotated[bool, typer.Option("--contact-sheets", help="Also write overview pictures.")] = False,
    geneval: Annotated[
        Path | None, typer.Option("--geneval", metavar="DIR2", help="Also write GenEval's folder layout there.")
    ] = None,
    t2i_compbench: Annotated[
        Path | None, typer.Option("--t2i-compbench", metavar="DIR2", help="Also write T2I-CompBench's layout there.")
    ] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option("--engine", help="Where images are made.")] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Ray actors; by default one per GPU, or 1 without.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="ADDRESS", help="Of a Ray cluster; else Ray starts here.")
    ] = None,
) -> None:
    """Generate the images of prompt files. Run it again to make only what is missing, changed or damaged.

    Options are defaults that rows override. All errors of the files are reported before anything is made (exit code
    2). Jobs that fail are listed at the end (exit code 1).
    """
    checks.check_controls("--control", [control])
    checks.check_run(width, height, model, device, output)
    for file in files:
        if str(file) != "-" and not file.exists():
            raise ValueError(f"FILE: cannot read {str(file)!r}: there is no such file")
        if file.is_dir():
            raise ValueError(f"FILE: {str(file)!r} is a folder: give its prompt files")
    for name, target in (("--geneval", geneval), ("--t2i-compbench", t2i_compbench)):
        if target is not None and target.resolve().is_relative_to(output.resolve()):
            raise ValueError(
                f"{name}: {str(target)!r} must not be in {str(output)!r}, where it would count as results"
            )
    part_of, assignments, first = _read_shard(shard), options.read_settings(settings), options.read_seed(seed)
    checks.check_settings(control, assignments)
    with console.status("starting"):
        guidance = options.read_guidance_scale(guidance_scale, model)
        options.check_negative_prompt(negative_prompt, model)
        parts = options.read_control(control, assignments, model)
        gates = options.read_grounding_option(grounding, grounding_beta)

        from attncontrol.batch import OutputFolder, Plan, Run, WorkerSettings
        from attncontrol.batch.sources import kept
        from attncontrol.guidance.settings import settings_of_checkpoint
        from attncontrol.losses.combining import control_to_json

    defaults = {
        "control": control_to_json(parts) or None,
        "grounding": gates,
        "negative_prompt": negative_prompt,
        "seed": first,
        "images_per_prompt": images_per_prompt,
        "steps": steps or default_steps(model),
        "guidance_scale": guidance,
        "width": width,
        "height": height,
    }
    with option("FILE"):
        names, copies = context.with_resource(kept(files))
    if seed == "random":
        typer.echo(f"seed {first}")
    tuned = settings_of_checkpoint(model)
    with option("--model"):
        heeds = heeds_negative_prompt(stock_pipeline(model))
    plan = Plan(
        names, defaults, skip_invalid, limit, part_of, tuned=tuned, prompt_column=prompt_column, copies=copies,
        heeds_negative_prompt=heeds,
    )  # fmt: skip
    with console.status("checking the prompt files"):
        total = _check(plan)
    if not total:
        typer.echo(f"shard {shard} has none of the rows: there is nothing to make")
        return
    folder, worker = OutputFolder(output), WorkerSettings(model, dtype, device, memory, maps)
    if dry_run:
        _dry_run(plan, folder, total, worker)
        return
    with console.status(f"loading {model}"):
        fingerprint, execute, described = _engine(worker, engine, workers, ray_address)
    settings_of_run = {**dataclasses.asdict(worker), **described}
    run = Run(plan, folder, fingerprint, execute, batch_size, settings=settings_of_run, maps=maps)
    with _progress(total) as run.progress:
        counts = run(total, wait)
    _export(folder, contact_sheets, geneval, t2i_compbench)
    _show(counts, output)
    if counts.failed:
        raise typer.Exit(1)


def _read_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not slash or not part.isdecimal() or not parts.isdecimal() or not 1 <= int(part) <= int(parts):
        raise ValueError(f"--shard: {text!r} must be I/N with I from 1 to N, as in 2/4")
    return int(part), int(parts)


def _check(plan: Plan) -> int:
    """The number of jobs, after listing every problem; exits with 2 if they are not to be skipped.

    It is 0 only for a shard that got no rows, which is no error.
    """
    problems = 0

    def report(problem: Any) -> None:
        nonlocal problems
        problems += 1
        typer.echo(f"left out: {problem}" if plan.skip_invalid else str(problem), err=True)

    total = plan.check(report)
    found = f"{problems} problem{'s' if problems > 1 else ''} in the prompt files"
    if problems and not plan.skip_invalid:
        rest = f"; --skip-invalid goes on with the other {total} image{'s' * (total > 1)}" if total else ""
        raise ValueError(f"{found}: nothing was made{rest}")
    if not total and not plan.shard:
        raise ValueError(f"{found}: nothing is left to make")
    return total


def _engine(worker: WorkerSettings, engine: str, workers: int | None, address: str | None) -> tuple[str, Any, dict]:
    """The model's fingerprint, what makes the batches, and its description for run.json."""
    import diffusers
    import transformers

    from attncontrol.batch.runner import one_by_one
    from attncontrol.cli.loading import check_device

    for package in (diffusers, transformers):
        package.utils.logging.disable_progress_bar()
    if engine == "local":
        if worker.device is not None:
            with option("--device"):
                check_device(worker.device)
        with option("--model"):
            maker = worker.load()
        return maker.fingerprint(), one_by_one(maker), {"engine": engine}
    from attncontrol.batch.ray_runner import ray_execute

    with option("--model"):
        fingerprint = dataclasses.replace(worker, device="cpu").load().fingerprint()
    execute = ray_execute(worker.load, workers=workers, gpus=worker.device != "cpu", address=address)
    return fingerprint, execute, {"engine": engine, "workers": workers, "ray_address": address}


def _dry_run(plan: Plan, folder: OutputFolder, total: int, worker: WorkerSettings) -> None:
    """Every job in a line, then the cost in denoiser steps, and in time where an earlier run has measured it.

    The model is not loaded: it is taken for that of the last run if its name and the versions are the same.
    """
    from attncontrol.images.recipe import package_versions

    last = folder.run()
    same = [last.get(key) for key in ("model", "dtype", "versions")] == [
        worker.model,
        worker.dtype,
        package_versions(),
    ]
    steps = present = 0
    for job in plan.jobs():
        done = same and folder.has(job, job.key(last["model_sha256"]), worker.maps)
        steps += 0 if done else job.sampling.steps
        present += done
        methods = " + ".join(part["method"] for part in job.control or ()) or "plain"
        typer.echo(f"{job.name}  {methods}  {job.sampling.steps} steps  {job.prompt[:80]!r}{'  (done)' * done}")
    typer.echo(f"{total} images, {present} of them done; {steps} sampling steps to do")
    seconds = last.get("seconds_per_step")
    if seconds and steps:
        typer.echo(
            f"about {_duration(steps * seconds)} at the {seconds:.3f} s per step of the last run in {folder.path}"
        )
    elif steps:
        typer.echo("for the time they take, make a few first with --limit: the next --dry-run knows their speed")


class _progress:
    """A bar with rate and time left on a terminal, else a line every half minute."""

    def __init__(self, total: int) -> None:
        import time

        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._clock, self._reported = time.monotonic, time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total)
        self._terminal = console.is_terminal

    def __enter__(self):
        self._bar.start()
        return self._update

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _update(self, counts: Counts) -> None:
        done = counts.found + counts.made + counts.failed
        left = "" if counts.seconds_left is None else f", {_duration(counts.seconds_left)} left"
        failed = f", {counts.failed} failed" if counts.failed else ""
        text = f"{counts.rate:.2f} images/s{left}{failed}"
        self._bar.update(self._task, completed=done, description=text)
        if not self._terminal and self._clock() - self._reported > REPORT_SECONDS:
            self._reported = self._clock()
            typer.echo(f"{done} of {counts.total}: {text}", err=True)


def _export(folder: OutputFolder, sheets: bool, geneval: Path | None, t2i_compbench: Path | None) -> None:
    from attncontrol.batch import exports

    if sheets:
        pages = exports.write_contact_sheets(folder)
        typer.echo(f"{pages} contact sheet{'s' * (pages > 1)} in {folder.path / 'contact_sheets'}")
    for write, target, reason in (
        (exports.write_geneval, geneval, "not from a GenEval metadata file"),
        (exports.write_t2i_compbench, t2i_compbench, "their prompt cannot be part of a file name there"),
    ):
        if target is None:
            continue
        left_out = write(folder, target)
        rest = f"; {len(left_out)} images left out: {reason}" if left_out else ""
        typer.echo(f"copies in {target}{rest}")


def _show(counts: Counts, output: Path) -> None:
    """The final table, and the failures with their reasons."""
    from rich.console import Console
    from rich.table import Table

    table = Table("jobs", "made", "found done", "failed", "time", "images/s", box=None, pad_edge=False)
    numbers = (counts.total, counts.made, counts.found, counts.failed)
    table.add_row(*map(str, numbers), _duration(counts.seconds), f"{counts.rate:.2f}")
    Console().print(table)
    for job, reason in counts.failures:
        typer.echo(f"failed: {job.name}: {reason}", err=True)
    if more := counts.failed - len(counts.failures):
        typer.echo(f"... and {more} more in {output / 'failures.jsonl'}", err=True)
    typer.echo(f"images and metadata.jsonl in {output}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
