"""The bundled model and the settings tuned for a checkpoint."""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

BUNDLED = {"emoji": Path(__file__).parent / "emoji"}
GUIDANCE_SCALES = {"emoji": 3.0}  # what a bundled model is best sampled with


def resolve(name_or_path: str | Path) -> str:
    """The folder of a bundled model given by name; anything else unchanged."""
    return str(BUNDLED.get(str(name_or_path), name_or_path))


@functools.lru_cache(maxsize=64)
def default_guidance_scale(name_or_path: str | Path) -> float:
    """The classifier-free guidance scale programs use for a model unless they are told another one.

    A bundled model's own, else the default of the pipeline that the checkpoint names: 7.5 for Stable Diffusion 1.x and
    2.x, 5 for XL. Raises ValueError if there is no checkpoint, or not of a pipeline that is guided.
    """
    if str(name_or_path) in GUIDANCE_SCALES:
        return GUIDANCE_SCALES[str(name_or_path)]
    import diffusers

    try:
        index = diffusers.DiffusionPipeline.load_config(resolve(name_or_path))
    except OSError as error:
        raise ValueError(f"no diffusers checkpoint at {str(name_or_path)!r}: {error}") from error
    name = index.get("_class_name")
    parameters = inspect.signature(getattr(diffusers, str(name), object).__call__).parameters
    if "guidance_scale" not in parameters:
        raise ValueError(f"the checkpoint {str(name_or_path)!r} is a {name}, which has no guidance scale")
    return parameters["guidance_scale"].default


def tuned_settings(path: str | Path) -> dict[str, dict[str, Any]]:
    """Method settings tuned for a checkpoint: `control.json` beside it, empty if there is none."""
    file = Path(path) / "control.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
