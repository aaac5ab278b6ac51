"""scores.jsonl: a line per image of a batch folder with all its scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from attncontrol.batch.folder import OutputFolder
from attncontrol.evaluation.metrics import Metric, Picture
from attncontrol.images.files import write_text
from attncontrol.losses.combining import control_name, resolve_control

BATCH = 16
SCORES = "scores.jsonl"


def score_folder(
    path: Path, metrics: Sequence[Metric], progress: Callable[[int], None] = lambda n: None
) -> list[dict]:
    """Scores every image of a batch folder and writes scores.jsonl.

    Scores of other metrics from an earlier evaluation are kept for images that have not changed since.

    Args:
        path: The folder.
        metrics: What to score with.
        progress: Told the number of images scored.

    Returns:
        The lines of scores.jsonl.

    Raises:
        ValueError: If the folder has no images.
    """
    folder = OutputFolder(path)
    images = _with_methods(list(_described(folder)))
    if not images:
        raise ValueError(f"{str(path)!r} has no images of a batch run: expected images/*.png with their .json files")
    earlier = {line["file_name"]: line for line in read_scores(path, missing_ok=True)}
    lines: list[dict[str, Any]] = []
    for start in range(0, len(images), BATCH):  # itertools.batched needs Python 3.12
        part = images[start : start + BATCH]
        pictures = [Picture(_open(path / line["file_name"]), line["prompt"]) for line in part]
        scores = [metric.score(pictures) for metric in metrics]
        for i, line in enumerate(part):
            before = earlier.get(line["file_name"], {})
            kept = before.get("scores", {}) if before.get("image_sha256") == line["image_sha256"] else {}
            lines.append({**line, "scores": {**kept, **{k: v for score in scores for k, v in score[i].items()}}})
        progress(len(lines))
    write_text(path / SCORES, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), overwrite=True)
    return lines


def read_scores(path: Path, missing_ok: bool = False) -> list[dict[str, Any]]:
    """The lines of a folder's scores.jsonl.

    Raises:
        ValueError: If it is missing or damaged.
    """
    file = path / SCORES
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        if missing_ok:
            return []
        raise ValueError(f"{str(path)!r} has no {SCORES}: run `attncontrol evaluate {path}` first") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {str(file)!r}: {error}") from error
    if not all(isinstance(line, dict) and {"prompt", "seed", "method", "scores"} <= line.keys() for line in lines):
        raise ValueError(f"{str(file)!r} is not a file of scores: delete it and evaluate again")
    return lines


def _described(folder: OutputFolder) -> Iterator[dict[str, Any]]:
    if not folder.images.is_dir():
        return
    for name, sidecar in folder.sidecars():
        recipe = sidecar["recipe"]
        yield {
            "file_name": f"images/{name}.png",
            "id": sidecar["id"],
            "prompt_set": Path(sidecar["source"]["file"]).stem,
            "prompt": recipe["prompt"],
            "seed": recipe["seed"],
            "control": recipe["control"],
            "model": recipe["model"],
            "seconds": sidecar["seconds"],
            "image_sha256": sidecar["image_sha256"],
        }


def _with_methods(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines with the "method" instead of the control; of one name with several settings, those that differ."""
    named: dict[str, list[list[dict]]] = {}
    for line in lines:
        line["method"] = control_name(resolve_control(line["control"]))
        controls = named.setdefault(line["method"], [])
        if line["control"] not in controls:
            controls.append(line["control"])
    for line in lines:
        control, controls = line.pop("control"), named[line["method"]]
        if len(controls) > 1:
            line["method"] += f" ({_difference(control, controls)})"
    return lines


def _difference(control: list[dict], controls: list[list[dict]]) -> str:
    """The settings of a control that are not the same in all of these, which have the same methods."""
    settings = [
        f"{key}={value}"
        for i, part in enumerate(control)
        for key, value in part.items()
        if any(other[i].get(key) != value for other in controls)
    ]
    return ", ".join(settings)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): run the batch again to have it remade") from error
