"""The recorded vectors of the methods' published codes: tests/golden, and ../shared/golden where it is present."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = (REPOSITORY / "tests" / "golden", REPOSITORY.parent / "shared" / "golden")


@dataclass(frozen=True, eq=False)
class GoldenCase:
    """One case of a method: its entry in index.json (`case["kwargs"]`, ...) and the arrays of its npz."""

    entry: dict[str, Any]
    folder: Path

    def __getitem__(self, key: str) -> Any:
        return self.entry[key]

    def __contains__(self, array: str) -> bool:
        return array in self.arrays

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the case, by name."""
        with np.load(self.folder / self.entry["file"]) as file:
            return dict(file)

    def tensor(self, array: str, requires_grad: bool = False) -> torch.Tensor:
        """One array as a tensor of its own dtype."""
        return torch.from_numpy(np.array(self.arrays[array])).requires_grad_(requires_grad)


def golden_files(method: str, name: str) -> list[Path]:
    """The files of this name in the method's golden folders."""
    return [path for folder in FOLDERS if (path := folder / method / name).is_file()]


def golden_cases(method: str, kind: str | None = None) -> list[Any]:
    """Every case of a method (of one kind, if given) as pytest parameters; one in both folders runs once."""
    cases = {
        entry["name"]: GoldenCase(entry, index.parent)
        for index in golden_files(method, "index.json")
        for entry in json.loads(index.read_text())["cases"]
        if kind is None or entry["kind"] == kind
    }
    return [pytest.param(case, id=name) for name, case in cases.items()]
