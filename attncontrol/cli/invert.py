"""`attncontrol invert`: the noise and the text from which a picture comes back, to be edited."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.loading import check_targets, console, load_pipeline, step_progress
from attncontrol.models import DEFAULT_UNET, default_steps

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture: PNG, JPEG, WebP.", show_default=False)]


def invert(
    image: Image,
    prompt: Annotated[str, typer.Option("--prompt", help="What the picture shows.", show_default=False)],
    method: options.Inversion = "null-text",
    nouns: options.Nouns = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    width: options.Width = None,
    height: options.Height = None,
    model: options.UNetModel = DEFAULT_UNET,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    memory: Annotated[
        Literal["fast", "low"], typer.Option("--memory", help="low takes more time and less memory.")
    ] = "fast",
    output: options.Output = Path("outputs"),
    cost: Annotated[bool, typer.Option("--cost", help="Say what it takes at most, and do nothing.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Invert a picture, and draw it again.

    The inversion is saved step by step: the same command goes on where it was stopped.
    """
    with option("--prompt"):
        check_text(prompt)
    checks.check_picture(image)
    checks.check_run(width, height, model, device, output)
    steps, stem = steps or default_steps(model), f"{Path(image).stem}_{method}"
    path, again = output / f"{stem}.safetensors", output / f"{stem}.png"
    if not cost:
        check_targets([again], overwrite)
    guidance = options.read_guidance_scale(guidance_scale, model)
    pipe = load_pipeline(model, device, dtype)
    if cost:
        typer.echo(cost_line(pipe, method, steps, width, height, memory))
        return
    start = time.perf_counter()
    inversion = inverted(
        pipe, image, prompt, method, steps, guidance_scale=guidance, height=height, width=width,
        nouns=options.read_subjects(nouns), path=path, memory=memory,
    )  # fmt: skip
    save_picture(pipe.reconstruct(inversion).images[0], again, {"prompt": prompt, "method": method}, overwrite)
    typer.echo(f"{path}\n{again}  in {time.perf_counter() - start:.1f} s")


def check_text(text: str | None) -> None:
    """Raises ValueError for a prompt without a word."""
    if text is None or not text.strip():
        raise ValueError("write what the picture shows, before and after, as in --prompt 'a cat' --to 'a dog'")


def inverted(pipe: Any, image: str, prompt: str, method: str, steps: int, **arguments: Any) -> Any:
    """The inversion of a picture, under a progress bar."""
    with step_progress(1, steps * (1 if method == "ddim" else 2)) as advance, console.status("reading the picture"):
        return pipe.invert(
            image, prompt, method, num_inference_steps=steps, on_step=lambda done, total: advance(0), **arguments
        )


def cost_line(pipe: Any, method: str, steps: int, width: int | None, height: int | None, memory: str) -> str:
    """What an inversion takes at most, for people."""
    from attncontrol.editing.arguments import latent_size, unet_family
    from attncontrol.editing.cost import inversion_cost

    size = latent_size(pipe, {"height": height, "width": width})
    found = inversion_cost(unet_family(pipe), size, method, steps, low_memory=memory == "low")
    return (
        f"at most {found.forwards} forward passes and {found.learning} with a backward pass, "
        f"{found.operations / 1e12:.3g} TFLOP, {found.peak_bytes / 2**20:.0f} MiB beside the model's weights"
    )


def save_picture(image: Any, path: Path, facts: dict[str, Any], overwrite: bool) -> None:
    """A PNG that carries how it was made."""
    from attncontrol.editing.pictures import save_edit
    from attncontrol.images.files import atomic_file

    with atomic_file(path, overwrite=overwrite) as file:
        save_edit(image, file, facts)
