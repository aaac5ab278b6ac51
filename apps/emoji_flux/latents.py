"""The latent space: the first eight principal components of 4x4 pixel patches, half whitened.

A fixed linear map, so that the transformer trains without waiting for the autoencoder, which is fitted to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 4  # pixels of a side that become one latent position
CHANNELS = 8
POWER, RMS = 0.25, 0.8
Space = dict[str, Tensor]


def fit(pictures: Tensor, channels: int = CHANNELS) -> Space:
    """Mean (48,) and projection (48, channels) of the patches of pictures (N, 3, H, W).

    A component of variance v gets a standard deviation in proportion to v ** POWER, with an rms of RMS over all: fine
    detail weighs less than colour and shape. Fully whitened, four components made 30.0 dB where these make 32.9.
    """
    patches = F.pixel_unshuffle(pictures, PATCH).transpose(0, 1).flatten(1).double().cpu()
    mean = patches.mean(1, keepdim=True)
    variances, vectors = torch.linalg.eigh((patches - mean) @ (patches - mean).T / patches.shape[1])
    variances, vectors = variances[-channels:].flip(0), vectors[:, -channels:].flip(1)
    deviations = variances**POWER
    deviations = deviations * RMS / deviations.square().mean().sqrt()
    return {"mean": mean[:, 0].float(), "projection": (vectors * deviations / variances.sqrt()).float().contiguous()}


def encode(pictures: Tensor, space: Space) -> Tensor:
    """(N, 3, H, W) in -1..1 to latents (N, channels, H/4, W/4)."""
    patches = F.pixel_unshuffle(pictures, PATCH)
    return torch.einsum("nphw,pc->nchw", patches - space["mean"][:, None, None], space["projection"])


def pack(latents: Tensor) -> Tensor:
    """Latents (N, C, H, W) to FLUX's tokens (N, H/2 * W/2, 4C), 2x2 positions each."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)
