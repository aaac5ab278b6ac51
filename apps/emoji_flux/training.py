"""The training loop of the transformer: flow matching, slot dropout, grounding, distilled guidance; resumable."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import T5TokenizerFast

from apps.emoji import grounding
from apps.emoji.vocabulary import COLOURS, NAMES

from . import latents, text
from .transformer import CELLS, Model, grounding_loss
from .world import SIZE, World

BATCH = 256
LEARNING_RATE = 1.2e-3
WARMUP = 300  # steps
HOLD = 0.6  # share of the time at the full learning rate; then linearly to zero
DISTIL = 0.5  # share of the time after which guidance is distilled; before, the guidance input means nothing
GUIDANCE = (1.0, 5.5)  # scales that are distilled
AVERAGE = 0.999  # most that the running average keeps in a step
EMPTY = 0.10  # share of captions replaced by the empty one
EMPTY_END = 0.50  # share in which end of text carries nothing; in the others it carries another caption's content
DROP_FUNCTION = 0.50  # share in which the slots of articles, joins and prefixes carry nothing
SLOTS = 32  # of text in most steps
LONG_EVERY, LONG = 16, (64, 128, 256, 512)  # every so many steps a smaller batch with more padding


def learning_rate(step: int, passed: float) -> float:
    """Linear warm-up, constant, then linearly to zero at `passed` = 1, the share of the time that has passed."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * min(1.0, max(0.0, (1 - passed) / (1 - HOLD)))


def draw_sigmas(count: int, device: str) -> Tensor:
    """Noise levels (count,): a fifth uniform, the others logit-normal (1.6, 1), where it is decided what is drawn."""
    late = torch.sigmoid(1.6 + torch.randn(count, device=device))
    uniform, chance = torch.rand(2, count, device=device)
    return torch.where(chance < 0.2, uniform, late)


def running_average(averaged: Tensor, current: Tensor, count: Tensor) -> Tensor:
    return torch.lerp(current, averaged, ((1 + count) / (10 + count)).clamp(max=AVERAGE).to(current))


class Captions:
    """The captions to train on, and which tokens mean what."""

    def __init__(self, ids: Tensor, things: Tensor, tokenizer: T5TokenizerFast, device: str) -> None:
        self.ids, self.things = ids.to(device), things.to(device)
        self.end, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        names, colours = (text.token_ids(tokenizer, tuple(words)).to(device) for words in (NAMES, COLOURS))
        self.content = torch.zeros(len(tokenizer), dtype=torch.bool, device=device)
        self.content[torch.cat([names, colours])] = True
        none = torch.tensor([-1], device=device)
        self.names, self.tints = torch.cat([names, none]), torch.cat([none, colours])

    def padded(self, ids: Tensor, empty: Tensor, slots: int) -> Tensor:
        """Token ids (N, slots); where `empty`, those of no caption at all."""
        full = torch.full((len(ids), slots), self.pad, device=ids.device, dtype=torch.long)
        full[:, : ids.shape[1]] = ids
        blank = torch.full_like(full[0], self.pad)
        blank[0] = self.end
        return torch.where(empty[:, None], blank, full)

    def neutralised(self, ids: Tensor, states: Tensor) -> Tensor:
        """Slot dropout: meaning is left in the words of things and colours alone."""
        nothing = states[:, -1:]  # padding amid padding
        chance = torch.rand(2, len(ids), 1, device=ids.device)
        end = ids == self.end
        foreign = states[end].roll(1, 0)[:, None]
        states = torch.where(end[..., None], foreign, states)
        dropped = end & (chance[0] < EMPTY_END)
        dropped |= ~end & (ids != self.pad) & ~self.content[ids] & (chance[1] < DROP_FUNCTION)
        return torch.where(dropped[..., None], nothing, states)

    def targets(self, ids: Tensor, things: Tensor, boxes: Tensor) -> Tensor:
        """What the map of every slot should show: (N, slots, 16, 16) in 0..1."""
        words = torch.stack([self.names[things[..., 0].long()], self.tints[things[..., 1].long()]], -1)
        return grounding.targets(ids, torch.cat([words, boxes], -1), CELLS, SIZE)


class Trainer:
    """State of a run: model, running average, optimizer, step and time spent; saved and restored as one file."""

    def __init__(self, model: Model, world: World, captions: Captions, space: latents.Space, pooled: Tensor) -> None:
        """`pooled`: pooled vectors of some captions, the empty one's first."""
        self.device = world.device
        self.model = model.to(self.device).train()
        self.world, self.captions = world, captions
        self.space = {name: value.to(self.device) for name, value in space.items()}
        self.pooled = pooled.to(self.device)
        self.average = AveragedModel(self.model, avg_fn=running_average).requires_grad_(False)
        matrices = [p for p in model.transformer.parameters() if p.ndim > 1]
        others = [p for p in model.transformer.parameters() if p.ndim <= 1] + list(model.encoder.parameters())
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE, (0.9, 0.99))
        self.step, self.spent = 0, 0.0

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def losses(self, count: int, slots: int, distil: bool) -> tuple[Tensor, Tensor]:
        """Mean squared error of the velocity, and the grounding loss, of `count` new scenes."""
        rows = torch.randint(len(self.captions.ids), (count,), device=self.device)
        things = self.captions.things[rows]
        pictures, boxes = self.world.render(things)
        clean = latents.pack(latents.encode(pictures, self.space))
        noise, sigma = torch.randn_like(clean), draw_sigmas(count, self.device)
        noisy, target = torch.lerp(clean, noise, sigma[:, None, None]), noise - clean
        ids = self.captions.padded(
            self.captions.ids[rows].long(), torch.rand(count, device=self.device) < EMPTY, slots
        )
        pooled = self.draw_pooled(count)
        guidance = torch.empty(count, device=self.device).uniform_(*GUIDANCE)
        if distil:  # one half goes on learning from the data
            half = count // 2
            guidance[:half] = 1.0
            target[half:] = self.taught(*(x[half:] for x in (noisy, ids, pooled, sigma, guidance)))
        with self.autocast(), self.model.recorded(count, slots) as maps:
            states = self.captions.neutralised(ids, self.model.states(ids))
            velocity = self.model.velocity(noisy, states, pooled, sigma, guidance)
        wanted = self.captions.targets(ids, things, boxes)
        grounded = grounding_loss(list(maps.values()), wanted, self.captions.content[ids])
        return (velocity - target).square().mean(), grounded

    def draw_pooled(self, count: int) -> Tensor:
        """The empty prompt's vector or another caption's by turns, never its own, so that it comes to mean nothing."""
        chosen = torch.randint(len(self.pooled), (count,), device=self.device)
        return self.pooled[torch.where(torch.rand(count, device=self.device) < 0.5, 0, chosen)]

    @torch.no_grad()
    def taught(self, noisy: Tensor, ids: Tensor, pooled: Tensor, sigma: Tensor, guidance: Tensor) -> Tensor:
        """The running average's velocity under classifier-free guidance of these scales."""
        teacher, one = self.average.module, torch.ones_like(sigma)
        empty = self.captions.padded(ids[:, :0], torch.ones_like(sigma, dtype=torch.bool), ids.shape[1])
        with self.autocast():
            with_text, without = (
                teacher.velocity(noisy, teacher.states(text_ids), pooled, sigma, one) for text_ids in (ids, empty)
            )
        return without + guidance[:, None, None] * (with_text - without)

    def update(self, passed: float = 0.0, batch: int = BATCH) -> tuple[float, float]:
        """One step of the optimizer; returns both losses. Its random numbers depend on the step alone."""
        torch.manual_seed(self.step)
        slots = SLOTS
        if self.step % LONG_EVERY == LONG_EVERY - 1:
            slots = LONG[self.step // LONG_EVERY % len(LONG)]
            batch = max(2, batch * (CELLS**2 + SLOTS) // (CELLS**2 + slots) // 4)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, passed)
        losses = self.losses(batch, slots, passed >= DISTIL)
        self.optimizer.zero_grad(set_to_none=True)
        (losses[0] + grounding.WEIGHT * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, error_if_nonfinite=True)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return losses[0].item(), losses[1].item()

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.spent,
        }
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]


def run(trainer: Trainer, workdir: Path, seconds: float, batch: int = BATCH, save_every: float = 240) -> None:
    """Trains until `seconds` are spent, those of earlier runs included; keeps `transformer.pt` in the work folder."""
    path, began, losses = workdir / "transformer.pt", time.time(), []
    before = saved = trainer.spent
    with (workdir / "curve.jsonl").open("a") as curve:
        while trainer.spent < seconds:
            losses.append(trainer.update(trainer.spent / seconds, batch))
            trainer.spent = before + time.time() - began
            if trainer.step % 50 == 0:
                velocity, grounded = torch.tensor(losses).mean(0).tolist()
                record = {"step": trainer.step, "seconds": round(trainer.spent, 1)}
                record |= {"loss": round(velocity, 5), "grounding": round(grounded, 5)}
                print(json.dumps(record), file=curve, flush=True)
                losses = []
            if trainer.spent - saved > save_every:
                trainer.save(path)
                saved = trainer.spent
    trainer.save(path)
