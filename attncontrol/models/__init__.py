"""The bundled models, and what lies beside a checkpoint: how it is best called, and settings tuned for it."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUNDLED = {name: Path(__file__).parent / name.replace("-", "_") for name in ("emoji", "emoji-flux")}
DEFAULT_MODEL = "emoji-flux"
"""The model of every command, and of the demo, that is not told another one."""
DEFAULT_UNET = "emoji"
"""The same for what needs a UNet: `edit` and `invert`."""


def resolve(name_or_path: str | Path) -> str:
    """The folder of a bundled model given by name; anything else unchanged."""
    return str(BUNDLED.get(str(name_or_path), name_or_path))


@functools.lru_cache(maxsize=64)
def default_guidance_scale(name_or_path: str | Path) -> float:
    """The classifier-free guidance scale programs use for a model unless they are told another one.

    A bundled model's own, else the default of the pipeline that the checkpoint names: 7.5 for Stable Diffusion 1.x and
    2.x, 5 for XL.

    Raises:
        ValueError: If there is no checkpoint, or not of a pipeline that is guided.
    """
    call = default_call(name_or_path)
    if "guidance_scale" in call:
        return call["guidance_scale"]
    name = stock_pipeline(name_or_path)
    parameters = _call_parameters(name)
    if "guidance_scale" not in parameters:
        raise ValueError(f"the checkpoint {str(name_or_path)!r} is a {name}, which has no guidance scale")
    return parameters["guidance_scale"].default


def default_steps(name_or_path: str | Path) -> int:
    """The sampling steps programs take for a model unless they are told others: a bundled model's own, else 30."""
    return default_call(name_or_path).get("num_inference_steps", 30)


def heeds_negative_prompt(pipeline: str) -> bool:
    """Whether a negative prompt has an effect in a stock pipeline: not where guidance is distilled, as in FLUX."""
    parameters = _call_parameters(pipeline)
    scale = parameters.get("true_cfg_scale")
    return "negative_prompt" in parameters and (scale is None or scale.default > 1)


@functools.lru_cache(maxsize=64)
def stock_pipeline(name_or_path: str | Path) -> str:
    """The name of the pipeline that a checkpoint is of.

    Raises:
        ValueError: If there is no checkpoint.
    """
    import diffusers

    try:
        index = diffusers.DiffusionPipeline.load_config(resolve(name_or_path))
    except OSError as error:
        raise ValueError(f"no diffusers checkpoint at {str(name_or_path)!r}: {error}") from error
    return str(index.get("_class_name"))


def _call_parameters(pipeline: str) -> Mapping[str, inspect.Parameter]:
    import diffusers

    return inspect.signature(getattr(diffusers, pipeline, object).__call__).parameters


def default_call(name_or_path: str | Path) -> dict[str, Any]:
    """Arguments that a checkpoint is best called with: `call.json` in its folder, empty if there is none.

    For the bundled FLUX, for one, its size: FluxPipeline itself would draw 512 pixels, which the model never saw.
    """
    return _beside(resolve(name_or_path), "call.json")


def tuned_settings(path: str | Path) -> dict[str, dict[str, Any]]:
    """Method settings tuned for a checkpoint: `control.json` beside it, empty if there is none."""
    return _beside(path, "control.json")


def insertion_settings(name_or_path: str | Path) -> dict[str, dict[str, Any]]:
    """Settings of `insert` tuned for a checkpoint, for "drawn" scenes and "pictures": `insert.json` beside it."""
    return _beside(resolve(name_or_path), "insert.json")


def has_gates(path: str | Path) -> bool:
    """Whether the UNet of a checkpoint's folder can be told of boxes (docs/grounding.md)."""
    folder = Path(resolve(path))
    own = _beside(folder / "unet", "config.json").get("attention_type") == "gated"
    return own or (folder / "gates.safetensors").is_file()


def _beside(folder: str | Path, name: str) -> dict[str, Any]:
    file = Path(folder) / name
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
