"""`attncontrol demo`: the Gradio page."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from attncontrol.cli import checks, options
from attncontrol.cli.errors import option


def demo(
    model: options.Model = "emoji",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    host: Annotated[str, typer.Option("--host", help="0.0.0.0 lets other machines reach the page.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Else a free one from 7860.")] = None,
    auth: Annotated[
        list[str] | None, typer.Option("--auth", metavar="USER:PASSWORD", help="Ask for these; may be repeated.")
    ] = None,
    max_size: Annotated[int, typer.Option("--max-size", min=8, help="Longest side of an image, in pixels.")] = 1024,
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Sampling steps of an image.")] = 100,
    max_images: Annotated[int, typer.Option("--max-images", min=1, help="Seeds at once.")] = 4,
    max_jobs: Annotated[int, typer.Option("--max-jobs", min=1, help="Images of an uploaded prompt file.")] = 200,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, help="Size of an uploaded file, in MB.")] = 5,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Open the demo page: generate, edit subjects, see attention, draw layouts, compare, run prompt files.

    Needs the extra "demo": pip install "attncontrol[demo]".
    """
    if find_spec("gradio") is None:
        raise ValueError('the demo needs gradio: pip install "attncontrol[demo]"')
    checks.check_model(model)
    if port is not None:
        checks.check_port(host, port)
    users = [_read_user(text) for text in auth or ()]
    from attncontrol.demo import Limits, Settings, launch

    limits = Limits(size=max_size, steps=max_steps, images=max_images, jobs=max_jobs, upload_mb=max_upload)
    with option("--port"):
        launch(Settings(model, device, dtype, limits), host=host, port=port, auth=users, open_browser=open_browser)


def _read_user(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ValueError("--auth: it must have the form USER:PASSWORD")
    return user, password
