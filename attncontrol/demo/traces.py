"""What a server of visitors leaves behind: no words of theirs in its log, no files of theirs on its disk."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import gradio
import transformers

KEPT_SECONDS = 3600
CLEANING_SECONDS = 600


class Places:
    """Stands for the module `traceback` in Gradio, and for uvicorn's log: an error's text may quote a visitor."""

    @staticmethod
    def print_exc() -> None:
        """Prints the kind of the current exception and where it was raised."""
        kind, _, trace = sys.exc_info()
        last = traceback.extract_tb(trace)[-1]
        print(f"{kind.__name__} at {last.filename}, line {last.lineno}", file=sys.stderr)


def keep_words_out_of_the_log() -> None:
    """For the rest of this process: warnings and tracebacks quote prompts, so none are printed."""
    warnings.simplefilter("ignore", UserWarning)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    for module in (gradio.queueing, gradio.routes):
        module.traceback = Places


@contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """A folder for all temporary files of this process, cleaned of old ones now and then, and gone at the end."""
    before, folder, ended = tempfile.tempdir, Path(tempfile.mkdtemp(prefix="attncontrol-demo-")), threading.Event()

    def clean() -> None:
        while not ended.wait(CLEANING_SECONDS):
            remove_old(folder, KEPT_SECONDS)

    tempfile.tempdir = str(folder)
    threading.Thread(target=clean, daemon=True, name="demo-cleaning").start()
    try:
        yield folder
    finally:
        ended.set()
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def remove_old(folder: Path, seconds: float) -> None:
    """Removes the files below a folder that have not changed for so long."""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                path.unlink()
        except OSError:  # another thread was quicker
            continue
