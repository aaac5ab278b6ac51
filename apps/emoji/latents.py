"""The latent space: four whitened principal components of 4x4 pixel patches. The VAE is fitted to it afterwards."""

from __future__ import annotations

import numpy as np
import torch

PATCH = 4  # pixels of a side that become one latent position
CHANNELS = 4
LATENT_SIZE = 16


def patches(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, H/4, W/4, 48) float32 in -1..1."""
    pixels = torch.from_numpy(np.array(images)).float() / 127.5 - 1
    n, height, width, _ = pixels.shape
    pixels = pixels.view(n, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return pixels.permute(0, 1, 3, 2, 4, 5).reshape(n, height // PATCH, width // PATCH, -1)


def fit(images: np.ndarray) -> dict[str, torch.Tensor]:
    """Mean (48,) and whitening projection (48, 4) of the patches."""
    flat = patches(images).flatten(0, 2).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    print("variance kept", float(values[-CHANNELS:].sum() / values.sum()))
    vectors, values = vectors[:, -CHANNELS:].flip(1), values[-CHANNELS:].flip(0)
    return {"mean": mean.float(), "projection": (vectors / values.sqrt()).float().contiguous()}


def encode(images: np.ndarray, space: dict[str, torch.Tensor]) -> torch.Tensor:
    """Latents (N, 4, H/4, W/4) float32."""
    return ((patches(images) - space["mean"]) @ space["projection"]).permute(0, 3, 1, 2).contiguous()
