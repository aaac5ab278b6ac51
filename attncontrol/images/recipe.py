"""Result images: PNG files that carry the whole recipe of how they were made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, PngImagePlugin
from pydantic import ConfigDict, TypeAdapter, ValidationError

from attncontrol.guidance.record import ImageRecord
from attncontrol.images.files import atomic_file
from attncontrol.images.sampling import Sampling
from attncontrol.layout import layout_to_json
from attncontrol.layout.reading import AUTO
from attncontrol.losses.base import MethodSum
from attncontrol.losses.combining import control_to_json

RECIPE_KEY = "attncontrol"
PARAMETERS_KEY = "parameters"
PACKAGES = ("attncontrol", "diffusers", "torch", "transformers")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an image, of JSON types only.

    `control` has one entry per method: {"method", "weight", all its settings}; empty for plain sampling. `subjects`
    are those that were guided: {"text", "noun": {"text", "token_indices"}, "modifiers": [...]}, start of text = 0.
    `layout` is as the caller gave it, and for "auto" the boxes that were used; `grounding` has its settings, None
    without. `versions` maps package to version.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    prompt: str
    seed: int
    steps: int
    guidance_scale: float
    width: int
    height: int
    model: str
    scheduler: str
    dtype: str
    negative_prompt: str = ""
    control: tuple[dict[str, Any], ...] = ()
    subjects: tuple[dict[str, Any], ...] = ()
    layout: Any = None
    grounding: dict[str, Any] | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON.

        Raises:
            ValueError: If `layout` is not of JSON types.
        """
        try:
            return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the recipe cannot be written as JSON: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: If it is no recipe; the message names the field at fault.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "recipe"
            raise ValueError(f"this is not a recipe of attncontrol: {place}: {wrong['msg']}") from error


def recipe_of(
    pipe: Any,
    image: Image.Image,
    *,
    model: str,
    prompt: str,
    seed: int,
    sampling: Sampling,
    control: MethodSum | None = None,
    record: ImageRecord | None = None,
    layout: Any = None,
    grounding: dict[str, Any] | None = None,
) -> Recipe:
    """The recipe of one image a pipeline has made.

    Args:
        pipe: The pipeline.
        image: The image; the recipe has its size, whatever was asked for.
        model: The name, id or folder the pipeline was loaded from.
        prompt: As given to the call.
        seed: Of the image's generator.
        sampling: What was asked for.
        control: The methods, as `resolve_control` gives them.
        record: The image's entry of `out.control.images`.
        layout: As given to the call, of JSON types.
        grounding: Its settings, `Grounding.to_json`.
    """
    return Recipe(
        prompt=prompt,
        negative_prompt=sampling.negative_prompt,
        seed=seed,
        steps=sampling.steps,
        guidance_scale=float(sampling.guidance_scale),
        width=image.width,
        height=image.height,
        model=str(model),
        scheduler=type(pipe.scheduler).__name__,
        dtype=str(pipe.dtype).removeprefix("torch."),
        control=tuple(control_to_json(control)) if control else (),
        subjects=_subjects(record),
        layout=_layout(layout, record),
        grounding=grounding,
        versions=package_versions(),
    )


def _layout(given: Any, record: ImageRecord | None) -> Any:
    if given != AUTO or record is None or record.layout is None:
        return given
    return layout_to_json(record.structure, record.layout)


def package_versions() -> dict[str, str]:
    """Versions of the packages an image depends on."""
    return {package: version(package) for package in PACKAGES}


def _subjects(record: ImageRecord | None) -> tuple[dict[str, Any], ...]:
    def word(w: Any) -> dict[str, Any]:
        return {"text": w.text, "token_indices": list(w.token_indices)}

    entities = record.structure.entities if record else ()
    return tuple(
        {"text": e.text, "noun": word(e.noun), "modifiers": [word(modifier) for modifier in e.modifiers]}
        for e in entities
    )


def save_image(
    image: Image.Image, path: str | Path, recipe: Recipe | Sequence[Recipe], *, overwrite: bool = False
) -> None:
    """Writes a PNG atomically, with its recipe as text chunks.

    `parameters` is the infotext that other tools read, `attncontrol` the recipe as JSON.

    Args:
        image: What to save.
        path: Where; missing folders are made.
        recipe: Of the image. A picture put together from several images has a list of their recipes, and no infotext.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        ValueError: If the file is there and `overwrite` is not set, or if it cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    if isinstance(recipe, Recipe):
        info.add_text(PARAMETERS_KEY, infotext(recipe))
        text = recipe.to_json()
    else:
        text = f"[{', '.join(r.to_json() for r in recipe)}]"
    info.add_itxt(RECIPE_KEY, text)
    with atomic_file(path, overwrite=overwrite) as file:
        image.save(file, format="PNG", pnginfo=info)


def read_recipe(path: str | Path | BinaryIO) -> Recipe:
    """The recipe of an image that `save_image` wrote.

    The picture is not decoded, however large it says it is; its checksums tell whether the file is whole.

    Raises:
        ValueError: If the file is damaged or has none.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(RECIPE_KEY)
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read {str(path)!r} as a PNG image: {error}") from error
    if text is None:
        raise ValueError(f"{str(path)!r} has no recipe: attncontrol did not write it, or its metadata was removed")
    try:
        return Recipe.from_json(text)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def infotext(recipe: Recipe) -> str:
    """The recipe in the form of the `parameters` chunk: prompt, negative prompt, then one line of settings."""
    control = " + ".join(f"{part['weight']:g}*{part['method']}" for part in recipe.control)
    settings = {
        "Steps": recipe.steps,
        "Sampler": recipe.scheduler.removesuffix("Scheduler"),
        "CFG scale": f"{recipe.guidance_scale:g}",
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model": recipe.model,
        "Control": control or None,
        "Grounding": _shown_grounding(recipe.grounding),
        "Subjects": ", ".join(subject["text"] for subject in recipe.subjects) or None,
        "Version": f"attncontrol {recipe.versions.get('attncontrol', 'unknown')}",
    }
    lines = [recipe.prompt]
    if recipe.negative_prompt:
        lines.append(f"Negative prompt: {recipe.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def _shown_grounding(grounding: dict[str, Any] | None) -> str | None:
    """ "GLIGEN 0.3", or "ReGround 1": the share of sampling in which gates are open."""
    if grounding is None:
        return None
    return f"{'ReGround' if grounding['rewired'] else 'GLIGEN'} {grounding['beta']:g}"


def _quoted(value: str) -> str:
    """A value with a comma, colon or line break is written as a JSON string."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",:\n") else value
