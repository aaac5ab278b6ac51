"""The oracle's verdict: success rates on pictures of the bundled model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attncontrol.evaluation.metrics.base import Picture, Score
from attncontrol.evaluation.oracle import detect, expected_from_prompt, verdict


class OracleSuccess:
    """Whether the detector finds what the prompt names; prompts that name nothing it knows have no score."""

    columns: ClassVar[dict[str, str]] = {
        "oracle_right": "share of images with every object in its colour",
        "oracle_present": "share of images with every object",
        "oracle_objects": "share of the objects that are there",
    }

    def score(self, pictures: Sequence[Picture]) -> list[Score]:
        """1 or 0 for all right and all present, and the share of objects that are there."""
        found = detect([picture.image for picture in pictures])
        return [self._score(picture.prompt, detections) for picture, detections in zip(pictures, found, strict=True)]

    def _score(self, prompt: str, detections: list) -> Score:
        try:
            expected = expected_from_prompt(prompt)
        except ValueError:
            return dict.fromkeys(self.columns)
        judged = verdict(expected, detections)
        return {
            "oracle_right": float(judged.all_right),
            "oracle_present": float(judged.all_present),
            "oracle_objects": sum(judged.present) / len(judged.present),
        }
