"""The output folder: images with their side-cars, what is done already, the lock, and the files about the whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from attncontrol.batch.jobs import Job
from attncontrol.batch.worker import Made
from attncontrol.images.files import atomic_file, make_folder, sha256, write_text
from attncontrol.images.recipe import save_image

TEMPORARY = ".*.tmp"
FAILURES = "failures.jsonl"
SIDECAR_KEYS = {"id", "seed", "key", "image_sha256", "source", "metadata", "recipe", "seconds"}


class FolderBusyError(ValueError):
    """Another run is writing to the folder."""


@dataclass(frozen=True)
class OutputFolder:
    """DIR of a batch run.

    images/NAME.png        the image, with its recipe inside
    images/NAME.json       the side-car, written after it: key, SHA-256 of the image file, recipe, what was guided
    maps/NAME.png          attention overlays, if wanted
    metadata.jsonl         one line per image, as datasets' imagefolder reads it
    failures.jsonl         the jobs that could not be made in the last run, with the reason, as they happen
    run.json               settings, versions, counts and seconds of the last run
    .lock                  held while a run writes

    A job is done if its side-car holds its key and the hashes of the image file, and of the overlays if wanted, as
    they are.
    """

    path: Path

    @property
    def images(self) -> Path:
        """Where the images are."""
        return self.path / "images"

    @property
    def maps(self) -> Path:
        """Where the attention overlays are."""
        return self.path / "maps"

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Holds the folder; the system lets go of it however the process ends. Leftovers of a killed run are removed.

        Raises:
            FolderBusyError: If another run holds it and `wait` is not set.
            ValueError: If it cannot be written.
        """
        try:
            make_folder(self.images)
            lock = FileLock(self.path / ".lock", timeout=-1 if wait else 0)
            lock.acquire()
        except Timeout as error:
            message = f"another run is writing to {str(self.path)!r}: wait for it to end, or choose another folder"
            raise FolderBusyError(message) from error
        except OSError as error:
            raise ValueError(f"cannot write to {str(self.path)!r}: {error.strerror}") from error
        try:
            for leftover in (*self.path.glob(TEMPORARY), *self.path.glob(f"*/{TEMPORARY}")):
                leftover.unlink()
            yield
        finally:
            lock.release()

    def has(self, job: Job, key: str, maps: bool = False) -> bool:
        """Whether the job is done, its image (and with `maps` its overlays) whole and unchanged."""
        sidecar = self.sidecar(job.name)
        if sidecar is None or sidecar["key"] != key:
            return False
        if maps and (sidecar.get("maps_sha256") or "") != sha256(self.maps / f"{job.name}.png"):
            return False
        return (sidecar["image_sha256"] or "") == sha256(self.images / f"{job.name}.png")

    def add(self, job: Job, key: str, made: Made) -> None:
        """Writes a job's image and overlays, then its side-car."""
        path, overlays = self.images / f"{job.name}.png", self.maps / f"{job.name}.png"
        for earlier in (path.with_suffix(".json"), overlays):  # of another image of this name
            earlier.unlink(missing_ok=True)
        save_image(made.image, path, made.recipe, overwrite=True)
        if made.overlays is not None:
            save_image(made.overlays, overlays, [made.recipe], overwrite=True)
        sidecar = {
            "id": job.id,
            "seed": job.seed,
            "key": key,
            "image_sha256": sha256(path),
            "maps_sha256": sha256(overlays),
            "source": {"file": job.file, "row": job.row},
            "metadata": job.metadata,
            "recipe": json.loads(made.recipe.to_json()),
            "guidance": made.guidance,
            "seconds": made.seconds,
            "flagged_by_safety_checker": made.flagged,
        }
        write_text(path.with_suffix(".json"), _json(sidecar, indent=1), overwrite=True)

    def sidecar(self, name: str) -> dict[str, Any] | None:
        """A side-car's content, None if it is missing or damaged."""
        try:
            content = json.loads((self.images / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and set(content) >= SIDECAR_KEYS else None

    def sidecars(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and side-car of every image, by name."""
        for file in sorted(entry.name for entry in os.scandir(self.images) if entry.name.endswith(".png")):
            sidecar = None if file.startswith(".") else self.sidecar(file.removesuffix(".png"))
            if sidecar is not None:
                yield file.removesuffix(".png"), sidecar

    def write_metadata(self) -> int:
        """Writes metadata.jsonl over all images there are, in one piece; returns their number."""
        count = 0
        with atomic_file(self.path / "metadata.jsonl", overwrite=True) as file:
            for name, sidecar in self.sidecars():
                file.write((_json(_metadata(name, sidecar)) + "\n").encode())
                count += 1
        return count

    def clear_failures(self) -> None:
        """Removes the failures.jsonl of an earlier run."""
        (self.path / FAILURES).unlink(missing_ok=True)

    def add_failure(self, job: Job, reason: str) -> None:
        """Adds a line to failures.jsonl, at once, so that the reasons outlive a run that is killed."""
        line = {"id": job.id, "seed": job.seed, "reason": reason, "prompt": job.prompt}
        with (self.path / FAILURES).open("ab", buffering=0) as file:  # one write a line: none is ever half there
            file.write((_json(line) + "\n").encode())

    def run(self) -> dict[str, Any]:
        """run.json of the last run, empty if there is none."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def write_run(self, content: dict[str, Any]) -> None:
        """Writes run.json."""
        write_text(self.path / "run.json", _json(content, indent=1), overwrite=True)


def _metadata(name: str, sidecar: dict[str, Any]) -> dict[str, Any]:
    """One line of metadata.jsonl. Columns hold text and numbers only, so that all lines have the same types."""
    recipe = sidecar["recipe"]
    return {
        "file_name": f"images/{name}.png",
        "id": sidecar["id"],
        "prompt_set": Path(sidecar["source"]["file"]).stem,
        **{key: recipe[key] for key in ("prompt", "negative_prompt", "seed", "steps", "guidance_scale")},
        **{key: recipe[key] for key in ("width", "height", "model", "scheduler")},
        "control": _json(recipe["control"]),
        "subjects": [subject["text"] for subject in recipe["subjects"]],
        "layout": _json(recipe["layout"]),
        "metadata": _json(sidecar["metadata"]),
    }


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
