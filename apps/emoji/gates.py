"""Gates for the bundled model: GLIGEN's fusers and its position network, trained alone on a frozen UNet.

Li et al., "GLIGEN: Open-Set Grounded Text-to-Image Generation", CVPR 2023, arXiv 2301.07093. Each scene tells what is
shown where, and the gates learn to draw it there. An extra term (that of `grounding`, on the fusers' own attention)
draws the attention of a box's pixels to the box's token: without it a training this short teaches no places.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from . import dataset, grounding, text, unet
from .latents import encode
from .scenes import SIZE, Placed, Thing
from .vocabulary import COLOURS, NAMES

FILE = "gates.safetensors"
SLOTS = 30  # grounding tokens of a call, as in GLIGEN
# Linear probes find a pixel's place in the features at 8x8 (R^2 .5 to .7 in noise), hardly in those at 16x16. The
# middle stays without a gate, so that the file is below 3 MB.
GATED = ("down_blocks.1", "up_blocks.0")
NO_BOXES = 0.1  # share of scenes without any, as in the unconditional half of a call
NO_BOX = 0.1  # share of things without one
MAP_WEIGHT = 1.0
LEARNING_RATE = 2e-3


def with_gates(plain: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same UNet with gates that are open and add nothing yet; only they ask for gradients."""
    gated = UNet2DConditionModel.from_config({**plain.config, "attention_type": "gated"})
    gated.load_state_dict(plain.state_dict(), strict=False)
    gated.requires_grad_(False)
    gated.position_net.requires_grad_(True)
    for name, fuser in gated.named_modules():
        if not name.endswith(".fuser"):
            continue
        fuser.enabled = name.startswith(GATED)
        fuser.requires_grad_(fuser.enabled)
        # open gates with empty outputs: closed ones would hold back the gradient of all behind them
        nn.init.constant_(fuser.alpha_attn, 0.5)
        nn.init.constant_(fuser.alpha_dense, 0.5)
        for output in (fuser.attn.to_out[0], fuser.ff.net[2]):
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)
    return gated


def gate_weights(gated: UNet2DConditionModel) -> dict[str, Tensor]:
    """The weights that training changed, by name."""
    return {name: p.detach() for name, p in gated.named_parameters() if p.requires_grad}


class Phrases:
    """What the text encoder makes of every thing there is ("cat", "red cat"), one row each."""

    @torch.no_grad()
    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        things = [(name, colour) for name in NAMES for colour in (None, *COLOURS)]
        words = [name if colour is None else f"{colour} {name}" for name, colour in things]
        self.rows = {Thing(*thing): row for row, thing in enumerate(things)}
        self.states = encoder(text.tokenize(tokenizer, words)).pooler_output


def pack(placed: list[list[Placed]], phrases: Phrases) -> Tensor:
    """Things of every scene as numbers, (N, THINGS, 5) int16: phrase, box in pixels; no thing is a row of -1."""
    packed = torch.full((len(placed), grounding.THINGS, 5), -1, dtype=torch.int16)
    for row, things in enumerate(placed):
        for column, item in enumerate(things):
            packed[row, column] = torch.tensor([phrases.rows[item.thing], *item.box], dtype=torch.int16)
    return packed


def map_loss(maps: list[Tensor], boxes: Tensor, live: Tensor) -> Tensor:
    """Mean binary cross-entropy between the fusers' attention to the tokens of boxes and the boxes.

    maps: (N, cells + SLOTS, cells + SLOTS) each; boxes: (N, THINGS, 4) in pixels; live: (N, THINGS) bool.
    """
    if not live.any():
        return maps[0].new_zeros(())
    losses = []
    for layer in maps:
        cells = layer.shape[1] - SLOTS
        found = layer[:, :cells, cells : cells + live.shape[1]].transpose(1, 2)[live].clamp(1e-5, 1 - 1e-5)
        wanted = grounding.NAME_SHARE * grounding.coverage(boxes, round(cells**0.5))[live].flatten(1)
        losses.append(F.binary_cross_entropy(found, wanted))
    return torch.stack(losses).mean()


class Trainer:
    """State of a run: gates, optimizer, step and random generator, saved and restored as one file."""

    def __init__(
        self, plain: UNet2DConditionModel, conditioner: unet.Conditioner, phrases: Phrases, bf16: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.unet, self.conditioner, self.phrases, self.bf16 = with_gates(plain), conditioner, phrases, bf16
        self.maps: list[Tensor] = []
        for name, module in self.unet.named_modules():
            if name.endswith((".attn1", ".attn2", ".fuser.attn")):
                wanted = name.endswith(".fuser.attn") and name.startswith(GATED)
                module.set_processor(grounding.RecordingAttention(self.maps if wanted else None))
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, LEARNING_RATE, (0.9, 0.99), weight_decay=0.01)
        self.scheduler = unet.build_scheduler()
        self.generator = torch.Generator().manual_seed(0)
        self.step = 0

    def loss(self, latents: Tensor, captions: list[str], things: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of the predicted velocity, and `map_loss`."""
        n, generator = len(latents), self.generator
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = unet.draw_timesteps(n, generator)
        states, _, _ = self.conditioner(captions, generator)
        boxes, live = things[..., 1:].float(), things[..., 0] >= 0
        live &= torch.rand(live.shape, generator=generator) >= NO_BOX
        live &= torch.rand(n, 1, generator=generator) >= NO_BOXES
        call = {
            "boxes": F.pad(boxes / SIZE, (0, 0, 0, SLOTS - live.shape[1])),
            "positive_embeddings": F.pad(
                self.phrases.states[things[..., 0].clamp(min=0).int()], (0, 0, 0, SLOTS - live.shape[1])
            ),
            "masks": F.pad(live.float(), (0, SLOTS - live.shape[1])),
        }
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        self.maps.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            predicted = self.unet(noisy, timesteps, states, cross_attention_kwargs={"gligen": call}).sample
        return F.mse_loss(predicted.float(), target), map_loss(self.maps, boxes, live)

    def update(self, latents: Tensor, captions: list[str], things: Tensor, decayed: float) -> tuple[float, float]:
        """One step of the optimizer; returns both losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = unet.learning_rate(self.step, decayed, LEARNING_RATE)
        losses = self.loss(latents, captions, things)
        self.optimizer.zero_grad(set_to_none=True)
        (losses[0] + MAP_WEIGHT * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        return losses[0].item(), losses[1].item()

    def save(self, path: Path, seconds: float) -> None:
        state = {
            "gates": gate_weights(self.unet),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": seconds,
        }
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, path: Path) -> float:
        """Goes on from a saved state; returns the seconds it took to get there."""
        state = torch.load(path, weights_only=True)
        self.unet.load_state_dict(state["gates"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]
        return state["seconds"]


def run(trainer: Trainer, latents: Tensor, captions: list[str], things: Tensor, workdir: Path, seconds: float) -> None:
    """Train for so many seconds of processor time in all; the learning rate falls to zero over the last third."""
    target = workdir / "gates.pt"
    passed = trainer.load(target) if target.exists() else 0.0
    rng = np.random.default_rng(trainer.step)
    losses, last, saved = [], time.process_time(), passed
    with open(workdir / "gates_curve.jsonl", "a") as curve:
        while passed < seconds:
            rows = rng.integers(0, len(captions), unet.BATCH)
            decayed = max(0.0, 3 * passed / seconds - 2)
            losses.append(
                trainer.update(latents[rows].float(), [captions[row] for row in rows], things[rows], decayed)
            )
            passed, last = passed + time.process_time() - last, time.process_time()
            if trainer.step % 50 == 0:
                velocity, maps = np.mean(losses, 0).round(5).tolist()
                line = {"step": trainer.step, "loss": velocity, "maps": maps, "seconds": round(passed)}
                print(json.dumps(line), file=curve, flush=True)
                losses = []
            if passed - saved > 60:
                trainer.save(target, passed)
                saved = passed
    trainer.save(target, passed)


def export(state: Path, path: Path) -> None:
    """Write the gates of a training state as the add-on of the bundled model, float16."""
    gates = torch.load(state, weights_only=True)["gates"]
    save_file({name: value.half().contiguous() for name, value in gates.items()}, path)
    path.chmod(0o644)


def scenes(workdir: Path, space: dict[str, Tensor]) -> tuple[Tensor, list[str], list[list[Placed]]]:
    """Latents (float16), captions and placed things of both data sets."""
    rows, captions, placed = [], [], []
    for name in ("clean", "noisy"):
        images, own_captions, own_placed = dataset.load(workdir / "data" / name)
        rows += [encode(images[i : i + 4000], space).half() for i in range(0, len(images), 4000)]
        captions += own_captions
        placed += own_placed
    return torch.cat(rows), captions, placed
