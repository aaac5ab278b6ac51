"""The page, and the server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from attncontrol.demo.api import Api
from attncontrol.demo.batch_tab import BatchTab
from attncontrol.demo.compare_tab import CompareTab
from attncontrol.demo.edit_run import can_edit
from attncontrol.demo.edit_tab import EditTab
from attncontrol.demo.generate_tab import GenerateTab
from attncontrol.demo.guard import Guard
from attncontrol.demo.insert_run import can_insert
from attncontrol.demo.insert_tab import InsertTab
from attncontrol.demo.settings import Limits, Settings
from attncontrol.demo.studio import Studio, load
from attncontrol.demo.traces import folder_of_its_own, keep_words_out_of_the_log
from attncontrol.demo.visitors import Presence, Uploads

MINUTE = 60
QUEUE = 50
UPLOADS_OF_ONE, UPLOADS_OF_ALL = 20, 100  # an hour, in files of the largest size


def build_demo(studio: Studio, limits: Limits) -> gr.Blocks:
    """The page around a loaded model."""
    with gr.Blocks(title="attncontrol", analytics_enabled=False, delete_cache=(10 * MINUTE, 60 * MINUTE)) as demo:
        gr.HTML(
            f"<h1>attncontrol</h1><p>See what the model attends to, and steer it. Model: {studio.model}</p>",
            elem_id="title",
        )
        with gr.Tabs():
            with gr.Tab("Generate"):
                generate = GenerateTab(studio, limits)
            if can_edit(studio.pipe):
                with gr.Tab("Edit"):
                    EditTab(studio, limits, generate.result)
            elif can_insert(studio.pipe):
                with gr.Tab("Edit"):
                    InsertTab(studio, limits)
            with gr.Tab("Compare"):
                CompareTab(studio, limits, generate.job.fields["layout"])
            with gr.Tab("Batch"):
                BatchTab(studio, limits)
        Api(studio, limits)

        def leave(request: gr.Request) -> None:
            studio.stop(request.session_hash)

        demo.unload(leave)
    demo.presence = Presence()
    studio.is_here = demo.presence.is_here
    return demo.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)


def launch(settings: Settings, **options: Any) -> None:
    """Loads the model and serves the page until interrupted; options as those of `serve`."""
    keep_words_out_of_the_log()
    studio = load(settings.model, settings.device, settings.dtype, settings.limits.seconds)
    with folder_of_its_own():
        serve(build_demo(studio, settings.limits), settings.limits, **options)


def serve(
    demo: gr.Blocks,
    limits: Limits,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    public_hosts: Sequence[str] = (),
    auth: list[tuple[str, str]] | None = None,
    open_browser: bool = False,
    block: bool = True,
) -> str:
    """Serves the page and returns its address; with `block` only when interrupted.

    public_hosts: names of this server on the internet. Raises ValueError if the port is taken.
    """
    largest = limits.upload_mb * 2**20
    uploads, started = Uploads(UPLOADS_OF_ONE * largest, UPLOADS_OF_ALL * largest), threading.Event()
    guard = Middleware(
        Guard,
        names=[host, *public_hosts],
        upload=largest,
        presence=demo.presence,
        uploads=uploads,
        started=started,
    )
    try:
        _, address, _ = demo.launch(
            server_name=host,
            server_port=port,
            auth=auth or None,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            max_file_size=largest,
            app_kwargs={"middleware": [guard]},
            enable_monitoring=False,
            theme=_theme(),
            head=_beside("head.html"),
            css=_beside("style.css"),
            footer_links=["api", "settings"],
            share=False,
            _frontend=False,  # no check whether the page answers within 3 s: a busy machine may take longer
            ssr_mode=False,
            show_error=False,  # but for gr.Error: what was not foreseen may hold anything
            quiet=True,  # it would advise options of its own
        )
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port or 'from 7860'}: {error}") from error
    started.set()
    if block:
        print(f"The demo is at {address} (Ctrl+C ends it)", flush=True)
        demo.block_thread()
    return address


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _theme() -> gr.themes.Base:
    """The default theme with fonts of the computer's own, and buttons dark enough for their white text."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_hover_dark="#991b1b",
    )
