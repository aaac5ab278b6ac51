"""What the model does while it samples: the clean picture behind the noisy latents, and attention, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attncontrol.demo.studio import Preview
from attncontrol.families import family_of
from attncontrol.guidance.record import ControlRecord
from attncontrol.images.visualize import heat_colours, subject_maps

PREVIEW_SECONDS = 0.15
PREVIEW_SHARE = 0.2  # of the time, at most, goes into decoding previews


@contextmanager
def previews(pipe: Any, width: int, height: int) -> Iterator[Callable[[], Preview | None]]:
    """A function that gives the picture predicted by the model's last call, and the attention of its step.

    It gives None where a picture would come too early, cost too much time, or is not known. The images of the pipe's
    calls in this context are `width` x `height` pixels.
    """
    last: dict[str, Any] = {}

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = dict(zip(("sample", "timestep"), args, strict=False)) | kwargs
        sample = given.get("hidden_states", given.get("sample"))
        last.update(sample=sample, timestep=given["timestep"], output=output[0] if isinstance(output, tuple) else None)

    spent, first = 0.0, time.monotonic()
    before = first

    def preview() -> Preview | None:
        nonlocal spent, before
        now = time.monotonic()
        late = now - before >= PREVIEW_SECONDS and spent <= PREVIEW_SHARE * (now - first)
        if not late or last.get("output") is None:
            return None
        with torch.no_grad():
            shown = Preview(_decode(pipe, predicted(pipe, **last), width, height), attention(pipe.control_record))
        before = time.monotonic()
        spent += before - now
        return shown

    handle = family_of(pipe).denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        yield preview
    finally:
        handle.remove()


def attention(record: ControlRecord | None) -> dict[str, Image.Image]:
    """Every subject's map in the last step as a heat map, hottest where it was highest in any step so far."""
    if record is None or record.images[0].maps is None:
        return {}
    (image,) = record.images
    highest = image.maps.amax((0, 2, 3)).clamp(min=1e-12)
    scaled = image.maps[-1] / highest[:, None, None]
    return {
        word: Image.fromarray(heat_colours(m.numpy())) for word, m in zip(subject_maps(image), scaled, strict=True)
    }


def predicted(pipe: Any, sample: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
    """The clean latents of the first image that a call of the denoiser implies, guidance included.

    sample, output: what the denoiser was given and gave, [images or twice as many, ...]; where there are both, the
    rows without the prompt come first. Flow models: x0 = x - t v. Others, of a sample scaled to unit variance with
    alpha² + sigma² = 1: x0 = (x - sigma e) / alpha, or alpha x - sigma v.
    """
    half = len(output) // 2
    x, y = sample[:1].float(), output[:1].float()
    if half and getattr(pipe, "do_classifier_free_guidance", False):
        y = y + pipe.guidance_scale * (output[half : half + 1].float() - y)
    config = pipe.scheduler.config
    time_ = float(timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep)
    if "FlowMatch" in type(pipe.scheduler).__name__:
        return x - (time_ if time_ <= 1 else time_ / config.num_train_timesteps) * y
    square = pipe.scheduler.alphas_cumprod[round(time_)].item()
    alpha, sigma = square**0.5, (1 - square) ** 0.5
    if config.prediction_type == "v_prediction":
        return alpha * x - sigma * y
    return y if config.prediction_type == "sample" else (x - sigma * y) / alpha


def _decode(pipe: Any, latents: Tensor, width: int, height: int) -> Image.Image:
    if latents.ndim == 3:  # packed into patches
        latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    config = pipe.vae.config
    latents = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)
    decoded = pipe.vae.decode(latents.to(pipe.vae.dtype)).sample
    return pipe.image_processor.postprocess(decoded.nan_to_num(), output_type="pil")[0]
