"""The autoencoder of the FLUX: its decoder learns to draw from the fixed latents, its encoder to reach them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from apps.emoji.vae import picture_loss

from .latents import CHANNELS, Space, encode
from .world import SIZE, World

BATCH = 64
LEARNING_RATE = 1.5e-3
NOISE = 0.08  # most noise on the latents, so that the decoder forgives what the transformer leaves over


def build_vae(widths: tuple[int, ...] = (32, 64, 128)) -> AutoencoderKL:
    """Factor 4; no scaling, since the latents have about unit variance, but a number for the shift, as FLUX wants."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def encoder_loss(vae: AutoencoderKL, pictures: Tensor, latents: Tensor) -> Tensor:
    """Squared error of the posterior mean; the log variance is drawn to -8, a deviation of about 0.02."""
    mean, log_variance = vae.encoder(pictures).float().chunk(2, 1)
    return F.mse_loss(mean, latents) + 0.01 * (log_variance + 8).square().mean()


def train(
    vae: AutoencoderKL,
    world: World,
    things: Tensor,
    space: Space,
    path: Path,
    seconds: float,
    report: Callable[[str], None] = print,
    batch: int = BATCH,
) -> None:
    """Trains on scenes of these things, the encoder in one step of four, and writes the weights to `path`."""
    device = world.device
    vae = vae.to(device)
    space = {name: value.to(device) for name, value in space.items()}
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, (0.9, 0.99), weight_decay=1e-4)
    torch.manual_seed(4)
    began, step = time.time(), 0
    while (passed := (time.time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * min(1, 1.6 * (1 - passed) + 0.01)
        pictures, _ = world.render(things[torch.randint(len(things), (batch,))])
        latents = encode(pictures, space)
        noisy = latents + NOISE * torch.rand(batch, 1, 1, 1, device=device) * torch.randn_like(latents)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            drawn = vae.decode(noisy).sample
            fitted = encoder_loss(vae, pictures, latents) if step % 4 == 0 else 0.0
        optimizer.zero_grad(set_to_none=True)
        (picture_loss(drawn.float(), pictures) + fitted).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            report(f"step {step} {measure(vae, pictures, latents)}")
    torch.save({name: value.cpu() for name, value in vae.state_dict().items()}, path)


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: Tensor, latents: Tensor) -> str:
    """PSNR in dB: from the fixed latents, and through the encoder and back."""

    def decibel(drawn: Tensor) -> float:
        return float(-10 * torch.log10(((drawn.clamp(-1, 1) - pictures) / 2).square().mean()))

    encoded = vae.encode(pictures).latent_dist.mode()
    return f"decoder {decibel(vae.decode(latents).sample):.2f} dB, both {decibel(vae.decode(encoded).sample):.2f} dB"
