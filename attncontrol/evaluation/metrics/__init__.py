"""Metrics, one file each; a model is loaded only when its metric is asked for."""

from __future__ import annotations

from attncontrol.evaluation.metrics.base import Metric, Picture, Score, subjects_of
from attncontrol.losses.registry import nearest

__all__ = ["METRICS", "Metric", "Picture", "Score", "create_metric", "subjects_of"]

METRICS = {
    "oracle": "the bundled model's detector: are all objects there, in their colours",
    "clip": "CLIP similarity of image and prompt, and the smallest one of image and a subject",
    "blip": "CLIP similarity of the prompt and BLIP's caption of the image",
}


def create_metric(
    name: str, *, device: str = "cpu", clip_model: str | None = None, blip_model: str | None = None
) -> Metric:
    """The metric called `name` with its model loaded.

    Raises:
        ValueError: For an unknown name or a model not there.
    """
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}{nearest(name, list(METRICS))}")
    if name == "oracle":
        from attncontrol.evaluation.metrics.oracle_success import OracleSuccess

        return OracleSuccess()
    from attncontrol.evaluation.metrics.clip_similarity import CLIP_MODEL, ClipEmbedder, ClipSimilarity

    embedder = ClipEmbedder(clip_model or CLIP_MODEL, device)
    if name == "clip":
        return ClipSimilarity(embedder)
    from attncontrol.evaluation.metrics.blip_caption import BLIP_MODEL, BlipCaption

    return BlipCaption(embedder, blip_model or BLIP_MODEL, device)
