"""The bundled model and the settings tuned for a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BUNDLED = {"emoji": Path(__file__).parent / "emoji"}
GUIDANCE_SCALES = {"emoji": 3.0}  # what a bundled model is best sampled with
USUAL_GUIDANCE_SCALE = 7.5  # of Stable Diffusion, the default of its pipelines


def resolve(name_or_path: str | Path) -> str:
    """The folder of a bundled model given by name; anything else unchanged."""
    return str(BUNDLED.get(str(name_or_path), name_or_path))


def default_guidance_scale(name_or_path: str | Path) -> float:
    """The classifier-free guidance scale programs use for a model unless they are told another one."""
    return GUIDANCE_SCALES.get(str(name_or_path), USUAL_GUIDANCE_SCALE)


def tuned_settings(path: str | Path) -> dict[str, dict[str, Any]]:
    """Method settings tuned for a checkpoint: `control.json` beside it, empty if there is none."""
    file = Path(path) / "control.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
