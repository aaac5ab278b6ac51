"""The autoencoder: its decoder learns to draw from the fixed latent space, its encoder to reach that space."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .latents import CHANNELS, encode
from .scenes import SIZE
from .text import to_pixels

BATCH = 16


def build_vae() -> AutoencoderKL:
    """Factor 4, scaling factor 1: the latents have unit variance by construction."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def picture_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + squared error + L1 of the differences between neighbouring pixels, which keeps edges sharp."""
    difference = predicted - target
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + 2 * difference.square().mean() + edges


def encoder_loss(vae: AutoencoderKL, pixels: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Squared error of the posterior mean; the log variance is drawn to -8, a deviation of about 0.02."""
    mean, log_variance = vae.quant_conv(vae.encoder(pixels)).chunk(2, 1)
    return F.mse_loss(mean, latents) + 0.01 * (log_variance + 8).square().mean()


def train(
    images: np.ndarray,
    space: dict[str, torch.Tensor],
    path: Path,
    seconds: float,
    encoder: bool,
    report=print,
    bf16: bool = False,
) -> None:
    """Continue from `path` if it exists. Decoder, and the encoder in one step of four where `encoder` is set.

    Latents get a little noise, so that the decoder forgives what the denoiser leaves over.
    """
    torch.manual_seed(4)
    vae = build_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), 2e-3, (0.9, 0.99), weight_decay=1e-4)
    step = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["vae"])
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        step = state.get("step", 0)
    rng = np.random.default_rng(step)
    began = time.time()
    while (passed := (time.time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * min(1, 2 * (1 - passed) + 0.02)
        rows = np.sort(rng.integers(512, len(images), BATCH))
        pixels, latents = to_pixels(images[rows]), encode(images[rows], space)
        noisy = latents + 0.08 * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(latents)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            drawn = vae.decode(noisy).sample
            fitted = encoder_loss(vae, pixels, latents) if encoder and step % 4 == 0 else 0.0
        loss = picture_loss(drawn.float(), pixels) + fitted
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            report(f"step {step} loss {loss.item():.4f} {measure(vae, images[:64], space)}")
    torch.save({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)


@torch.no_grad()
def measure(vae: AutoencoderKL, images: np.ndarray, space: dict[str, torch.Tensor]) -> str:
    """PSNR in dB: from the fixed latents, and through the encoder and back."""
    pixels, latents = to_pixels(images), encode(images, space)

    def decibel(drawn: torch.Tensor) -> float:
        return float(-10 * torch.log10(((drawn.clamp(-1, 1) - pixels) / 2).square().mean()))

    encoded = vae.encode(pixels).latent_dist.mode()
    return f"decoder {decibel(vae.decode(latents).sample):.2f} dB, both {decibel(vae.decode(encoded).sample):.2f} dB"
