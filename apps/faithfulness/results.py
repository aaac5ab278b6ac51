"""Results as they come: one JSON line per image, appended, so that a run can be stopped at any moment and go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attncontrol.evaluation.oracle import Detection
from attncontrol.images.files import write_text

PLAIN = "plain"
RESULTS, SETTINGS, PICTURES = "results.jsonl", "settings.json", "pictures"


@dataclass(frozen=True)
class Result:
    """What the oracle saw in one image, and how long the image took (its share of the batch's wall time)."""

    method: str
    prompt: str
    seed: int
    seconds: float
    detections: tuple[Detection, ...]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.prompt, self.seed

    @property
    def picture(self) -> str:
        """Name of the file that has the picture, if it was kept."""
        return f"{hashlib.sha256(json.dumps(self.key).encode()).hexdigest()[:12]}.png"

    @classmethod
    def from_json(cls, line: str) -> Result:
        row = json.loads(line)
        found = tuple(Detection(d["object"], d["colour"], tuple(d["box"]), d["score"]) for d in row["detections"])
        return cls(row["method"], row["prompt"], row["seed"], row["seconds"], found)


class ResultFile:
    """The results of a folder by (method, prompt, seed). A line cut off by a crash is dropped and made again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / RESULTS
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))
        self.results = {result.key: result for result in map(Result.from_json, whole.decode().splitlines())}

    def append(self, results: Iterable[Result]) -> None:
        """Adds results and has them on the disk before it returns."""
        results = list(results)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in results)
            file.flush()
            os.fsync(file.fileno())
        self.results |= {result.key: result for result in results}


def check_settings(folder: Path, settings: dict[str, Any], methods: dict[str, Any]) -> None:
    """Keeps results of different settings apart: writes them beside the results, or compares with those there.

    Methods may be added later. Raises ValueError that names what differs.
    """
    path = folder / SETTINGS
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {**settings, "methods": {}}
    for name, value in settings.items():
        if there.get(name) != value:
            raise ValueError(
                f"{folder} holds results with {name} = {there.get(name)!r}, not {value!r}: use another one"
            )
    for name, method in methods.items():
        if there["methods"].setdefault(name, method) != method:
            raise ValueError(f"{folder} holds results of {name!r} with other settings: use another one")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(there, indent=1) + "\n", overwrite=True)
