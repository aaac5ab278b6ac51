"""`attncontrol demo`: the Gradio page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.models import DEFAULT_MODEL


def demo(
    model: options.Model = DEFAULT_MODEL,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    host: Annotated[str, typer.Option("--host", help="0.0.0.0 lets other machines reach the page.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Else a free one from 7860.")] = None,
    auth: Annotated[
        list[str] | None,
        typer.Option(
            "--auth",
            metavar="USER:PASSWORD",
            help="Ask for these; may be repeated, or separated by spaces in the environment.",
            envvar="ATTNCONTROL_DEMO_AUTH",
        ),
    ] = None,
    auth_file: Annotated[
        Path | None, typer.Option("--auth-file", metavar="FILE", help="Lines of USER:PASSWORD, hidden from `ps`.")
    ] = None,
    public_host: Annotated[
        list[str] | None, typer.Option("--public-host", metavar="NAME", help="The server's name; may be repeated.")
    ] = None,
    max_size: Annotated[int, typer.Option("--max-size", min=8, help="Longest side of an image, in pixels.")] = 1024,
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Sampling steps of an image.")] = 100,
    max_images: Annotated[int, typer.Option("--max-images", min=1, help="Seeds at once.")] = 4,
    max_jobs: Annotated[int, typer.Option("--max-jobs", min=1, help="Images of an uploaded prompt file.")] = 200,
    max_seconds: Annotated[int, typer.Option("--max-seconds", min=1, help="Time of a job from its turn on.")] = 120,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, help="Size of an uploaded file, in MB.")] = 5,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Open the demo page: generate, edit subjects, see attention, draw layouts, compare, run prompt files.

    Needs the extra "demo": pip install "attncontrol[demo]".
    """
    if find_spec("gradio") is None:
        raise ValueError('the demo needs gradio: pip install "attncontrol[demo]"')
    checks.check_model(model)
    checks.check_device(device)
    if port is not None:
        checks.check_port(host, port)
    users = [_read_user(text) for text in [*(auth or ()), *_lines(auth_file)]]
    from attncontrol.demo import Limits, Settings, launch

    limits = Limits(
        size=max_size, steps=max_steps, images=max_images, jobs=max_jobs, upload_mb=max_upload, seconds=max_seconds
    )
    with option("--port"):
        launch(
            Settings(model, device, dtype, limits),
            host=host,
            port=port,
            auth=users,
            public_hosts=public_host or (),
            open_browser=open_browser,
        )


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--auth-file: cannot read {str(path)!r} as text: {error}") from error
    if not (found := [line for line in lines if line.strip()]):
        raise ValueError(f"--auth-file: {str(path)!r} has no line USER:PASSWORD")
    return found


def _read_user(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ValueError("--auth: it must have the form USER:PASSWORD")
    return user, password
