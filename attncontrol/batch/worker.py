"""The worker: holds a pipeline and makes jobs' images, a batch at a time."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from attncontrol.batch.jobs import Job
from attncontrol.guidance.record import ImageRecord
from attncontrol.images.recipe import Recipe, package_versions, recipe_of
from attncontrol.images.visualize import labelled_grid, overlay, subject_maps
from attncontrol.losses.combining import resolve_control
from attncontrol.models import DEFAULT_MODEL, default_call
from attncontrol.pipelines import AttentionControlPipeline
from attncontrol.prompt import parse_prompt

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Made:
    """A job's image and what is known about it. `seconds`: the job's share of its batch's time.

    `overlays`: each subject's attention map over the image, if wanted.
    """

    image: Image.Image
    recipe: Recipe
    guidance: list[dict[str, Any]]
    seconds: float
    flagged: bool = False
    overlays: Image.Image | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its image, or the reason why there is none."""

    job: Job
    made: Made | None = None
    reason: str | None = None


@dataclass(frozen=True)
class WorkerSettings:
    """How to load the model. `model`: a bundled one, an id or a folder; `device`: None for a GPU if there is one."""

    model: str = DEFAULT_MODEL
    dtype: str = "float32"
    device: str | None = None
    memory: str = "auto"
    maps: bool = False

    def load(self) -> Worker:
        """A worker with the pipeline in memory.

        Raises:
            ValueError: If it cannot be loaded.
        """
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        pipe = AttentionControlPipeline.from_pretrained(self.model, dtype=DTYPES[self.dtype]).to(device)
        return Worker(pipe, self.model, self.memory, self.maps)


class Worker:
    """Makes images with one pipeline.

    Every image has a generator of its own on the CPU, so its noise depends neither on the batch nor on the device.
    Kernels round differently for batches of different sizes, and guidance can make much of that: in float32 a guided
    image in a batch may differ visibly from the same one made alone. Batches of one, or float64, leave no difference.
    """

    def __init__(self, pipe: AttentionControlPipeline, model: str, memory: str = "auto", maps: bool = False) -> None:
        self.pipe, self.model, self.memory, self.maps = pipe, model, memory, maps
        self.pipe.set_progress_bar_config(disable=True)
        self._largest: dict[str, int] = {}  # the batch size that memory allows, by settings of jobs

    def fingerprint(self) -> str:
        """A hash of weights, configurations, tuned settings, parser and versions: of all that makes images of jobs."""
        digest = hashlib.sha256()
        versions = package_versions()
        parser = parse_prompt("a cat").backend
        settings = [self.pipe.tuned_settings, parser, versions["attncontrol"], versions["diffusers"]]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for name, component in sorted(self.pipe.components.items()):
            digest.update(f"{name} {type(component).__name__} {_described(component)}".encode())
            if isinstance(component, torch.nn.Module):
                for key, tensor in component.state_dict().items():
                    digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def make(self, jobs: Sequence[Job]) -> list[Outcome]:
        """An outcome for every job; all must have the same settings.

        If a batch fails, its halves are tried in turn, down to the one job at fault. After running out of memory
        later batches of these settings are no larger than what fitted.
        """
        largest = self._largest.get(jobs[0].settings, len(jobs))
        if len(jobs) > largest:
            return [outcome for i in range(0, len(jobs), largest) for outcome in self.make(jobs[i : i + largest])]
        try:
            return self._call(jobs)
        except Exception as error:  # whatever the fault of one job, the run goes on
            if out_of_memory(error):
                self._largest[jobs[0].settings] = (len(jobs) + 1) // 2
            if len(jobs) == 1:
                return [Outcome(jobs[0], reason=_reason(error))]
        _free_memory()
        half = (len(jobs) + 1) // 2
        return self.make(jobs[:half]) + self.make(jobs[half:])

    def _call(self, jobs: Sequence[Job]) -> list[Outcome]:
        first, start = jobs[0], time.perf_counter()
        arguments: dict[str, Any] = {}
        if first.control is not None or first.grounding is not None or self.maps:
            arguments = {
                "control": first.control,
                "record_maps": self.maps,
                "subjects": [job.subjects for job in jobs],
                "layout": [job.layout for job in jobs],
                "grounding": first.grounding,
                "memory": self.memory,
            }
        negative = [job.sampling.negative_prompt for job in jobs]
        out = self.pipe(
            [job.prompt for job in jobs],
            negative_prompt=negative if any(negative) else None,  # some models are guided by an empty one
            **default_call(self.model) | first.sampling.arguments(),
            generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            output_type="pt",
            **arguments,
        )
        finite = out.images.isfinite().flatten(1).all(1).tolist()
        images = self.pipe.image_processor.numpy_to_pil(
            out.images.float().nan_to_num().permute(0, 2, 3, 1).cpu().numpy()
        )
        records = out.control.images if out.control else [None] * len(jobs)
        flagged = out.nsfw_content_detected or [False] * len(jobs)
        seconds = round((time.perf_counter() - start) / len(jobs), 4)
        return [
            self._outcome(*item, seconds)
            for item in zip(jobs, images, finite, records, map(bool, flagged), strict=True)
        ]

    def _outcome(
        self, job: Job, image: Image.Image, finite: bool, record: ImageRecord | None, flagged: bool, seconds: float
    ) -> Outcome:
        if not finite:
            return Outcome(job, reason="the image is not finite (NaN): try float32, or a smaller step size")
        recipe = recipe_of(
            self.pipe,
            image,
            model=self.model,
            prompt=job.prompt,
            sampling=job.sampling,
            seed=job.seed,
            control=resolve_control(job.control),
            record=record,
            layout=job.layout,
            grounding=job.grounding,
        )
        overlays = _overlays(image, record) if self.maps else None
        return Outcome(job, Made(image, recipe, _guidance(record), seconds, flagged, overlays))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the computer has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("out of memory" in str(error) or "can't allocate memory" in str(error))


def _guidance(record: ImageRecord | None) -> list[dict[str, Any]]:
    """Per step: iteration, losses of every evaluation by method, refinement moves, whether the latents moved."""
    steps = record.steps if record else ()
    return [
        {"index": step.index, "losses": step.losses, "refinements": step.refinements, "moved": step.moved}
        for step in steps
    ]


def _overlays(image: Image.Image, record: ImageRecord | None) -> Image.Image:
    """The image and each subject's attention map over it; the image alone for a prompt without subjects."""
    maps = subject_maps(record) if record is not None and record.maps is not None else {}
    return labelled_grid(
        [[image, *(overlay(image, attention) for attention in maps.values())]], column_titles=["", *maps]
    )


def _described(component: Any) -> str:
    """A component's vocabulary or configuration, without where it was loaded from and by which version."""
    if hasattr(component, "get_vocab"):
        return json.dumps(component.get_vocab(), sort_keys=True)
    config = getattr(component, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {key: value for key, value in values.items() if not key.startswith("_") and key != "transformers_version"}
    return json.dumps(kept, sort_keys=True, default=str)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
