"""What can be said about a command's options at once, before torch is imported or anything is made."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from attncontrol.arguments import PLAIN, check_side, nearest
from attncontrol.cli import catalog
from attncontrol.cli.errors import option
from attncontrol.models import BUNDLED, has_gates, resolve

DEVICE = re.compile(r"(?:cpu|cuda|mps|xpu|hpu|npu|mtia|privateuseone|meta)(?::\d+)?")
INDEX = "model_index.json"  # of a checkpoint
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def check_prompt(prompt: str) -> None:
    """Raises ValueError for an empty prompt."""
    if not prompt.strip():
        raise ValueError("PROMPT: it is empty: write what the image should show")


def check_size(width: int | None, height: int | None) -> None:
    """Raises ValueError for a side that is not a multiple of 8."""
    for name, side in (("--width", width), ("--height", height)):
        if side is not None:
            with option(name):
                check_side(side)


def check_run(width: int | None, height: int | None, model: str, device: str | None, output: Path) -> None:
    """What every command that makes pictures is given. Raises ValueError that names the option at fault."""
    check_size(width, height)
    check_model(model)
    check_device(device)
    check_folder(output)


def check_picture(path: str) -> None:
    """Raises ValueError if there is no such file."""
    if not Path(path).is_file():
        raise ValueError(f"IMAGE: there is no file {path!r}")


def check_controls(name: str, controls: Iterable[str]) -> None:
    """Raises ValueError that begins with `name`, the option, for a control with the name of no method."""
    for control in controls:
        for method in () if control == PLAIN else catalog.methods_of(control):
            if method not in catalog.methods():
                raise ValueError(f"{name}: unknown method {method!r}{nearest(method, catalog.names())}")


def check_settings(control: str, settings: Iterable[str]) -> None:
    """Raises ValueError for settings, as "stop" or "syngen.stop", that no method of a control has."""
    methods = [catalog.methods()[name] for name in catalog.methods_of(control)] if control != PLAIN else []
    for key in settings:
        name, _, setting = key.rpartition(".")
        if not any(setting in method.settings and name in ("", method.name) for method in methods):
            known = [f"{method.name}.{s}" if name else s for method in methods for s in method.settings]
            raise ValueError(f"--set: the control has no setting {key!r}{nearest(key, dict.fromkeys(known))}")


def check_layout(layout: str | None, controls: Iterable[str]) -> None:
    """Raises ValueError if there is no such file, or no layout for a method that needs one."""
    if layout is not None and layout != "auto" and not Path(layout).is_file():
        raise ValueError(f"--layout: cannot read the layout file {layout!r}: there is no such file")
    for control in controls:
        for method in catalog.methods_of(control):
            if layout is None and method in catalog.methods() and catalog.methods()[method].needs_layout:
                raise ValueError(
                    f"--layout: {method} needs a layout: give a JSON file of phrases of the prompt and their boxes "
                    "(x0, y0, x1, y1 in 0..1), as in {\"cat\": [0, 0, 0.5, 1]}, or 'auto'"
                )


def check_grounding(grounding: str | None, layout: str | None, model: str) -> None:
    """Raises ValueError for a grounding without a layout, or of a checkpoint here whose UNet has no gates."""
    if grounding is None:
        return
    if layout is None:
        raise ValueError("--grounding: it needs boxes: give --layout, a JSON file of phrases and boxes, or 'auto'")
    if os.path.exists(resolve(model)) and not has_gates(model):
        raise ValueError(
            f"--grounding: the model {model!r} has no gates that could be told of boxes: give --model a GLIGEN "
            "checkpoint, as masterful/gligen-1-4-generation-text-box, or leave the option out"
        )


def check_model(model: str) -> None:
    """Raises ValueError for what is neither a bundled model, nor a checkpoint's folder, nor an id on the Hub.

    An id has the form owner/name; the Hub is asked once for one that is not in its cache. Whatever looks like a path
    must be there: the network is never asked for it.
    """
    if model in BUNDLED:
        return
    if os.path.exists(model):
        if not Path(model, INDEX).is_file():
            raise ValueError(f"--model: no diffusers checkpoint at {model!r}: it has no {INDEX}")
    elif not HUB_ID.fullmatch(model):
        raise ValueError(
            f"--model: no diffusers checkpoint at {model!r}: there is no such folder; bundled is "
            f"{' and '.join(map(repr, BUNDLED))}, and an id on the Hub has the form owner/name"
        )
    else:
        _check_id(model)


def _check_id(model: str) -> None:
    from huggingface_hub import file_exists, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, INDEX), str):
        return
    try:  # once: loading tries six times, half a minute without a network
        if any(file_exists(model, name) for name in (INDEX, f"modular_{INDEX}")):
            return
        reason = "the Hub has none of this name, or shows it only to those who are logged in"
    except Exception as error:  # the client does not promise which
        reason = f"asking the Hub for it failed: {str(error).splitlines()[0]}"
    raise ValueError(f"--model: no diffusers checkpoint at {model!r}: {reason}")


def check_folder(folder: Path, name: str = "--output") -> None:
    """Raises ValueError if nothing can be written to a folder that is there or would be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not there.is_dir():
        raise ValueError(f"{name}: {str(there)!r} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: nothing may be written to {str(there)!r}: give a folder of your own")


def check_evaluated(folder: Path) -> None:
    """Raises ValueError for what is not a folder with scores."""
    if not folder.is_dir():
        raise ValueError(f"DIR: there is no folder {str(folder)!r}")
    if not (folder / "scores.jsonl").is_file():
        raise ValueError(f"DIR: {str(folder)!r} has no scores.jsonl: run `attncontrol evaluate {folder}` first")


def check_device(device: str | None) -> None:
    """Raises ValueError for what is not the name of a device."""
    if device is not None and not DEVICE.fullmatch(device):
        raise ValueError(f"--device: {device!r} is no device: it is cpu, cuda, cuda:1, mps, xpu or another of torch")


def check_port(host: str, port: int) -> None:
    """Raises ValueError if a server cannot listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"--host: {host!r} is no address of this machine: {error.strerror}") from error
    with socket.socket(family, kind) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(address)
            server.listen()
        except OSError as error:
            raise ValueError(
                f"--port: cannot listen on {host}, port {port}: {error.strerror}; "
                "without --port a free one from 7860 on is found"
            ) from error
