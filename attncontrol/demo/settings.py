"""What a server of the demo is started with."""

from __future__ import annotations

from dataclasses import dataclass, field

from attncontrol.models import DEFAULT_MODEL


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for: side in pixels, sampling steps, images at once, jobs of a batch, upload in MB.

    `seconds`: how long a job may take from its turn on.
    """

    size: int = 1024
    steps: int = 100
    images: int = 4
    jobs: int = 200
    upload_mb: int = 5
    seconds: int = 120
    prompt_characters: int = 1000


@dataclass(frozen=True)
class Settings:
    """The model, as `AttentionControlPipeline.from_pretrained` takes it, where it runs, and the limits."""

    model: str = DEFAULT_MODEL
    device: str = "cpu"
    dtype: str = "float32"
    limits: Limits = field(default_factory=Limits)
