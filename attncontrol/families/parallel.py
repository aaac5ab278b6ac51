"""Denoisers shared out over several devices by diffusers' `enable_parallelism`."""

from __future__ import annotations

from torch import nn


def check_not_parallel(denoiser: nn.Module, name: str) -> None:
    """Raises ValueError for a denoiser, of a pipeline called `name`, whose attention runs on several devices.

    Each would see the maps of its part of the picture or of its heads only.
    """
    shared = [denoiser, *(getattr(part, "processor", None) for part in denoiser.modules())]
    if any(getattr(part, "_parallel_config", None) is not None for part in shared):
        raise ValueError(
            f"the denoiser of this {name} is shared out over several devices, and a guided pass needs whole attention "
            "maps on one: load it without enable_parallelism and parallel_config"
        )
