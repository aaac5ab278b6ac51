"""The settings that methods have on a model: those tuned for the checkpoint, its family's, or published ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from attncontrol.families import family_of, family_of_checkpoint
from attncontrol.families.base import Family
from attncontrol.losses.base import MethodSum
from attncontrol.losses.focus import as_published
from attncontrol.losses.registry import method_classes
from attncontrol.models import resolve, tuned_settings


def settings_of(pipe: Any) -> dict[str, Any]:
    """Settings by method that replace the published defaults: those tuned for the checkpoint, else the family's."""
    return settings_for(family_of(pipe), getattr(pipe, "tuned_settings", None) or {})


def settings_for(family: Family | type[Family], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a family and what is tuned for a checkpoint of it."""
    settings, own = dict(tuned), family.defaults
    for name, cls in method_classes().items() if own else ():
        known = {field.name: field.default for field in dataclasses.fields(cls)}
        if known["step_size"] == 0:  # it moves nothing unless the user says so
            del known["relative_step"]
        settings.setdefault(name, {key: value for key, value in own.items() if key in known})
    return settings


@functools.lru_cache(maxsize=64)
def settings_of_checkpoint(name_or_path: str | Path) -> dict[str, Any]:
    """The same of a checkpoint that is not loaded: a bundled model's name, a folder, or an id on the Hub.

    Raises ValueError if there is none, or none that can be controlled.
    """
    path = resolve(name_or_path)
    try:
        index = DiffusionPipeline.load_config(path)
    except OSError as error:
        raise ValueError(f"no diffusers checkpoint at {str(name_or_path)!r}: {error}") from error
    return settings_for(family_of_checkpoint(index), tuned_settings(path))


def with_references(family: Family, methods: MethodSum, own: Mapping[str, Any]) -> MethodSum:
    """The methods with reference variants as they are published for the family's models.

    `own` are the model's settings by method.

    Raises:
        ValueError: Where no published code knows such models; it names the method and the denoiser.
    """
    parts = []
    for weight, method in methods.parts:
        if method.variant == "reference" and not family.has_reference(method):
            raise ValueError(
                f"{method.name}: no published code controls a {type(family.denoiser).__name__}, so there is no "
                "variant='reference' of it; leave the setting out"
            )
        is_focus = method.variant == "reference" and method.name in family.references
        parts.append((weight, as_published(method, own.get(method.name, {})) if is_focus else method))
    return MethodSum(tuple(parts))
