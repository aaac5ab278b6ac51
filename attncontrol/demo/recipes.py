"""A result's recipe: as Python, as a command line, and back from a PNG into the fields."""

from __future__ import annotations

import json
import shlex
from typing import Any

from attncontrol.arguments import PLAIN
from attncontrol.grounding.settings import NAMES, read_grounding
from attncontrol.guidance.settings import settings_of_checkpoint
from attncontrol.images.recipe import Recipe
from attncontrol.losses import method_classes
from attncontrol.losses.combining import control_name, control_to_json, resolve_control
from attncontrol.models import default_call


def as_python(recipe: Recipe) -> str:
    """A program that makes the image."""
    arguments = default_call(recipe.model) | {
        "negative_prompt": recipe.negative_prompt or None,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.guidance_scale,
        "width": recipe.width,
        "height": recipe.height,
        "control": _changed(recipe),
        "subjects": subject_groups(recipe) if recipe.control else None,
        "layout": recipe.layout if recipe.control or recipe.grounding else None,
        "grounding": grounding_name(recipe) or recipe.grounding,
    }
    dtype = "" if recipe.dtype == "float32" else f", dtype=torch.{recipe.dtype}"
    lines = [f"    {name}={value!r}," for name, value in arguments.items() if value is not None]
    return "\n".join(
        [
            "import torch",
            "from attncontrol import AttentionControlPipeline",
            "",
            f"pipe = AttentionControlPipeline.from_pretrained({recipe.model!r}{dtype})",
            "out = pipe(",
            f"    {recipe.prompt!r},",
            *lines,
            f"    generator=torch.Generator().manual_seed({recipe.seed}),",
            ")",
            'out.images[0].save("image.png")',
        ]
    )


def as_command(recipe: Recipe) -> str:
    """The command line that makes the image, its layout in a file of its own."""
    control = " + ".join(
        part["method"] if part["weight"] == 1 else f"{part['weight']!r}*{part['method']}" for part in recipe.control
    )
    words = ["attncontrol", "generate", recipe.prompt, "--control", control or PLAIN, "--seed", str(recipe.seed)]
    words += ["--steps", str(recipe.steps), "--guidance-scale", repr(recipe.guidance_scale)]
    words += ["--width", str(recipe.width), "--height", str(recipe.height), "--model", recipe.model]
    if recipe.dtype != "float32":
        words += ["--dtype", recipe.dtype]
    if recipe.negative_prompt:
        words += ["--negative-prompt", recipe.negative_prompt]
    for part in _changed(recipe) or ():
        prefix = f"{part['method']}." if len(recipe.control) > 1 else ""
        for name, value in part.items():
            if name not in ("method", "weight"):
                words += ["--set", f"{prefix}{name}={json.dumps(value)}"]
    if recipe.control and recipe.subjects:
        words += ["--subjects", json.dumps(subject_groups(recipe))]
    if recipe.grounding:
        words += ["--grounding", "reground" if recipe.grounding["rewired"] else "gligen"]
        words += ["--grounding-beta", f"{recipe.grounding['beta']:g}"]
    before, uses_layout = "", bool(recipe.control or recipe.grounding)
    if uses_layout and recipe.layout == "auto":
        words += ["--layout", "auto"]
    elif uses_layout and recipe.layout:
        before = f"cat > layout.json <<'END'\n{json.dumps(recipe.layout)}\nEND\n"
        words += ["--layout", "layout.json"]
    return before + shlex.join(words)


def subject_groups(recipe: Recipe) -> list[list[list[int]]] | None:
    """The recipe's subjects as the pipeline takes them: each a group of token indices, the noun's last."""
    groups = [[w["token_indices"] for w in (*subject["modifiers"], subject["noun"])] for subject in recipe.subjects]
    return groups or None


def grounding_name(recipe: Recipe) -> str | None:
    """What `grounding` is called if it has its default settings."""
    return next((name for name in NAMES if read_grounding(name).to_json() == recipe.grounding), None)


def _changed(recipe: Recipe) -> list[dict[str, Any]] | None:
    """Every part of the control with the settings that differ from those the model's name brings along."""
    tuned, parts = settings_of_checkpoint(recipe.model), []
    for part in recipe.control:
        (defaults,) = control_to_json(resolve_control(part["method"], tuned))
        parts.append({k: v for k, v in part.items() if k == "method" or defaults[k] != v})
    return parts or None


def control_of(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The recipe's control as the page has it: the name of a method or sum, and all settings."""
    if not recipe.control:
        return PLAIN, {}
    several = len(recipe.control) > 1
    settings = {
        f"{part['method']}.{name}" if several else name: value
        for part in recipe.control
        for name, value in part.items()
        if name not in ("method", "weight")
    }
    return control_name(resolve_control(list(recipe.control))), settings


def check_restorable(recipe: Recipe, model: str) -> None:
    """Raises ValueError for a recipe whose method or model this demo does not have."""
    if recipe.model != model:
        raise ValueError(f"this image was made by the model {recipe.model!r}; this demo runs {model!r}.")
    if recipe.grounding and grounding_name(recipe) is None:
        raise ValueError("this image was grounded by settings that the demo does not offer.")
    for part in recipe.control:
        if part.get("method") not in method_classes():
            raise ValueError(f"this image was made by the method {part.get('method')!r}, which is not known here.")
    boxed = any(method_classes()[part["method"]].needs_layout for part in recipe.control)
    if recipe.control and recipe.layout and not (boxed or recipe.grounding):
        raise ValueError("this image was made with boxes by methods that need none, which the demo does not offer.")
