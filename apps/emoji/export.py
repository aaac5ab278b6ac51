"""Put the trained parts together as a StableDiffusionPipeline folder, float16 safetensors, replaced in one go."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from attncontrol.evaluation.oracle import WEIGHTS
from attncontrol.models import resolve

from .unet import build_scheduler, build_unet
from .vae import build_vae

SHARD = "15MB"
LATENT_SPACE = "latent_space.safetensors"


def assemble(workdir: Path, unet_state: Path, widths: tuple[int, int]) -> StableDiffusionPipeline:
    """The pipeline from a training state (EMA weights), the CLIP and the VAE in the work folder; float32."""
    clip = CLIPModel.from_pretrained(workdir / "clip")
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    unet = build_unet(widths)
    ema = EMAModel(unet.parameters())
    ema.load_state_dict(torch.load(unet_state, map_location="cpu", weights_only=True)["ema"])
    ema.copy_to(unet.parameters())
    vae = build_vae()
    vae.load_state_dict(torch.load(workdir / "vae.pt", weights_only=True)["vae"])
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(workdir / "clip"),
        unet=unet.eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(workdir: Path, unet_state: Path, widths: tuple[int, int], folder: Path) -> None:
    """Save all parts into an existing empty folder, the whole CLIP (for CLIP scores) under clip/."""
    pipe = assemble(workdir, unet_state, widths)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.half()
    pipe.save_pretrained(folder, max_shard_size=SHARD)
    CLIPModel.from_pretrained(workdir / "clip").half().save_pretrained(folder / "clip")
    shutil.copy2(workdir / LATENT_SPACE, folder / LATENT_SPACE)
    shutil.copy2(Path(resolve("emoji")) / "call.json", folder)


def export(workdir: Path, unet_state: Path, widths: tuple[int, int], output: Path) -> None:
    """Write the folder `output` (the model card and control.json in an older one are kept)."""
    publish(output, lambda folder: write(workdir, unet_state, widths, folder))


def publish(output: Path, write: Callable[[Path], None]) -> None:
    """Writes a checkpoint beside `output` and puts it there in one go; card, settings and pictures there are kept."""
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=output.name + ".", dir=output.parent))
    write(fresh)
    for config in fresh.glob("*/config.json"):
        # transformers loads in the dtype named here, diffusers in float32: without this the parts would not fit
        config.write_text(config.read_text().replace('"float16"', '"float32"'))
    for path in fresh.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if output.exists():
        for kept in (*output.glob("*.md"), *output.glob("control.json"), *output.glob("*.png")):
            shutil.copy2(kept, fresh / kept.name)
        old = fresh.with_suffix(".old")
        output.rename(old)
        fresh.rename(output)
        shutil.rmtree(old)
    else:
        fresh.rename(output)
    output.chmod(0o755)


def restore(folder: Path, workdir: Path) -> None:
    """Begin a work folder from a shipped checkpoint: all weights, without the states of the optimizers."""
    workdir.mkdir(parents=True, exist_ok=True)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    CLIPModel.from_pretrained(folder / "clip").save_pretrained(workdir / "clip")
    pipe.tokenizer.save_pretrained(workdir / "clip")
    torch.save({"unet": pipe.unet.state_dict()}, workdir / "unet.pt")
    torch.save({"vae": pipe.vae.state_dict()}, workdir / "vae.pt")
    shutil.copy2(folder / LATENT_SPACE, workdir / LATENT_SPACE)
    with safe_open(WEIGHTS, "pt") as file:
        network = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    torch.save({"network": network}, workdir / "oracle.pt")
