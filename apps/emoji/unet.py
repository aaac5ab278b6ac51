"""The denoiser and its training loop: v-prediction, slot dropout, EMA, warmup-stable-decay, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from transformers import CLIPTextModel, CLIPTokenizer

from . import grounding, text
from .latents import LATENT_SIZE
from .vocabulary import COLOURS, NAMES

BATCH = 32
LEARNING_RATE = 1e-3
WARMUP = 200  # steps
EMPTY = 0.10  # share of captions replaced by the empty one, for classifier-free guidance
EMPTY_END = 0.50  # share in which end of text carries nothing; in the others it carries another caption's content
DROP_FUNCTION = 0.50  # share in which the slots of articles, joins and prefixes carry nothing


def build_unet(widths: tuple[int, ...] = (48, 128)) -> UNet2DConditionModel:
    """Text enters at 16x16 and at 8x8: once on the way down, in the middle, and twice on the way up."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=4,  # the number of heads, in this class
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Conditioner:
    """Captions to text states, with the slot dropout that puts the meaning into the words."""

    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self.encoder, self.tokenizer = encoder.eval().requires_grad_(False), tokenizer
        words = tokenizer([*NAMES, *COLOURS]).input_ids
        self.content = torch.zeros(len(tokenizer), dtype=torch.bool)
        self.content[[ids[1] for ids in words]] = True
        self.empty = self.encode([""])[0][0]

    @torch.no_grad()
    def encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states (N, 77, width) and token ids (N, 77)."""
        ids = text.tokenize(self.tokenizer, captions)
        return self.encoder(ids.to(self.encoder.device)).last_hidden_state, ids

    def __call__(
        self, captions: list[str], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Text states (N, 77, width), token ids (N, 77), and which slots hold the name of a thing or a colour."""
        states, ids = self.encode(captions)
        chance = torch.rand(3, len(captions), 1, generator=generator)
        end = ids == self.tokenizer.eos_token_id
        padding = ids == self.tokenizer.pad_token_id
        neutral = (chance[0] < EMPTY) | padding | (end & (chance[1] < EMPTY_END))
        neutral |= ~end & ~self.content[ids] & (chance[2] < DROP_FUNCTION)
        states[end] = states[end].roll(1, 0)  # no caption keeps its own end, so that nothing can be read from it
        states = torch.where(neutral[..., None].to(states.device), self.empty, states)
        return states, ids, self.content[ids] & ~neutral


def draw_timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) int64 in 0..999: a fifth uniform, the others from a beta distribution (4, 2).

    In latents this small the word of an object lowers the loss at timesteps 600 to 950 only; below, the shape shows.
    """
    uniform = torch.rand(5, count, generator=generator)
    late = uniform.sort(0).values[3]
    share = torch.where(torch.rand(count, generator=generator) < 0.2, uniform[0], late)
    return (1000 * share).long()


def learning_rate(step: int, decayed: float = 0.0, peak: float = LEARNING_RATE) -> float:
    """Linear warm-up, then constant; `decayed` is the share of the final, linear decay to zero that has passed."""
    return peak * min(1.0, (step + 1) / WARMUP) * max(0.0, 1 - decayed)


def process_count() -> int:
    """Processes that share the work when started by torchrun, else 1."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients."""
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    dist.all_reduce(flat)
    parts = (flat / process_count()).split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad.copy_(part.view_as(parameter))


def share_of(seconds: float, started: float) -> float:
    """How much of the time has passed, by the clock of the first process."""
    passed = torch.tensor((time.time() - started) / seconds, dtype=torch.float64)
    if process_count() > 1:
        dist.broadcast(passed, 0)
    return float(passed)


@dataclass(frozen=True)
class Batch:
    """Scenes: latents (N, 4, 16, 16), captions, and the things shown as `grounding.pack` has them."""

    latents: torch.Tensor
    captions: list[str]
    things: torch.Tensor

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        index = torch.as_tensor(rows)
        return Batch(self.latents[index], [self.captions[row] for row in rows], self.things[index])


class Trainer:
    """State of a run: model, EMA, optimizer, step and random generator, saved and restored as one file."""

    def __init__(
        self,
        conditioner: Conditioner,
        device: str,
        widths: tuple[int, ...],
        bf16: bool = False,
        peak: float = LEARNING_RATE,
    ) -> None:
        torch.manual_seed(0)
        self.device, self.conditioner, self.bf16, self.peak = device, conditioner, bf16, peak
        self.unet = build_unet(widths).to(device)
        self.maps = grounding.record(self.unet)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), peak, (0.9, 0.995), weight_decay=0.01)
        self.ema = EMAModel(self.unet.parameters(), decay=0.999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.ema.to(device)
        self.scheduler = build_scheduler()
        self.generator = torch.Generator().manual_seed(process_rank())
        self.step = 0

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean squared error of the predicted velocity, and the grounding loss of the attention maps."""
        latents = batch.latents.float().to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        timesteps = draw_timesteps(len(latents), generator).to(self.device)
        states, ids, words = (x.to(self.device) for x in self.conditioner(batch.captions, generator))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        self.maps.clear()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            predicted = self.unet(noisy, timesteps, states).sample
        grounding_loss = grounding.grounding_loss(self.maps, ids, words, batch.things.to(self.device))
        return F.mse_loss(predicted.float(), target), grounding_loss

    def update(self, batch: Batch, decayed: float = 0.0) -> tuple[float, float]:
        """One step of the optimizer; returns both losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, decayed, self.peak)
        losses = self.loss(batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        (losses[0] + grounding.WEIGHT * losses[1]).backward()
        if process_count() > 1:
            average_gradients([*self.unet.parameters()])
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.ema.step(self.unet.parameters())
        self.step += 1
        return losses[0].item(), losses[1].item()

    def save(self, path: Path) -> None:
        state = {
            "unet": self.unet.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        if "ema" not in state:  # weights alone, from a shipped checkpoint
            self.ema.shadow_params = [p.detach().clone() for p in self.unet.parameters()]
            return
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if process_rank():
            self.generator.manual_seed(self.step * process_count() + process_rank())
        else:
            self.generator.set_state(state["generator"].cpu())

    @torch.no_grad()
    def validation_losses(self, batch: Batch) -> list[float]:
        """Both losses of the EMA weights on fixed pictures, noise and timesteps."""
        self.ema.store(self.unet.parameters())
        self.ema.copy_to(self.unet.parameters())
        generator = torch.Generator().manual_seed(5)
        parts = [self.loss(batch[range(i, i + 64)], generator) for i in range(0, len(batch.captions), 64)]
        self.ema.restore(self.unet.parameters())
        return torch.tensor(parts).mean(0).tolist()


def run(
    trainer: Trainer,
    scenes: Batch,
    workdir: Path,
    seconds: float,
    decay: bool = False,
    save_every: float = 240,
) -> None:
    """Train for a time; with `decay` the learning rate falls to zero over it.

    The stable phase keeps `unet.pt`; a decay starts from it and writes `unet_decayed.pt`, so that training can go on
    from the stable state.
    """
    held = 512
    started = time.time()
    target = workdir / ("unet_decayed.pt" if decay else "unet.pt")
    rng = np.random.default_rng([trainer.step, process_rank()])
    losses, saved, began, seen = [], time.time(), time.time(), 0
    first = process_rank() == 0
    with open(workdir / "unet_curve.jsonl", "a") as curve:
        while (passed := share_of(seconds, started)) < 1:
            rows = rng.integers(held, len(scenes.captions), BATCH // process_count())
            losses.append(trainer.update(scenes[rows], passed if decay else 0.0))
            seen += BATCH
            if first and trainer.step % 100 == 0:
                velocity, grounded = np.mean(losses, 0).round(5).tolist()
                record = {"step": trainer.step, "loss": velocity, "grounding": grounded, "time": time.time()}
                record["rate"] = round(seen / (time.time() - began), 1)
                if trainer.step % 800 == 0:
                    record["validation"] = trainer.validation_losses(scenes[range(held)])
                print(json.dumps(record), file=curve, flush=True)
                losses, began, seen = [], time.time(), 0
            if first and time.time() - saved > save_every:
                trainer.save(target)
                saved = time.time()
    if first:
        trainer.save(target)
