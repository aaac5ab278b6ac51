"""Training of the oracle, with half-formed objects as background."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from attncontrol.evaluation.oracle import GRID, SIZE, OracleNetwork, decode

from .scenes import Placed, background
from .text import to_pixels
from .vocabulary import COLOURS, NAMES

BATCH = 32
IGNORE = -100


def targets(scenes: list[list[Placed]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Names (N, 16, 16), colours (N, 16, 16) and distances (N, 4, 16, 16) of the cells in the middle of each object.

    Cells of the rim of a box are left out of the loss; where no object is, the name is the background's.
    """
    count = len(scenes)
    names = np.full((count, GRID, GRID), len(NAMES))
    colours = np.full((count, GRID, GRID), IGNORE)
    distances = np.zeros((count, 4, GRID, GRID), np.float32)
    centres = (np.arange(GRID) + 0.5) * SIZE / GRID
    palette = [*COLOURS, None]
    for row, placed in enumerate(scenes):
        for item in placed:
            left, top, right, bottom = item.box
            inside = (centres > left) & (centres < right), (centres > top) & (centres < bottom)
            names[row][np.ix_(inside[1], inside[0])] = IGNORE
        for item in placed:
            left, top, right, bottom = item.box
            middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
            near_x = np.abs(centres - middle_x) <= max(2.1, 0.27 * (right - left))
            near_y = np.abs(centres - middle_y) <= max(2.1, 0.27 * (bottom - top))
            where = np.ix_(near_y, near_x)
            names[row][where] = NAMES.index(item.thing.name)
            colours[row][where] = palette.index(item.thing.colour)
            x, y = np.meshgrid(centres, centres)
            for side, value in enumerate((x - left, y - top, right - x, bottom - y)):
                distances[row, side][where] = (value / SIZE).clip(0, 1)[where]
    return torch.from_numpy(names), torch.from_numpy(colours), torch.from_numpy(distances)


def _blur(patch: torch.Tensor, factor: int) -> torch.Tensor:
    """Average blocks of factor pixels and enlarge again: (3, h, w)."""
    small = F.interpolate(patch[None], scale_factor=1 / factor, mode="area", recompute_scale_factor=True)
    return F.interpolate(small, patch.shape[1:], mode="bilinear", align_corners=False)[0]


def spoil(rng: np.random.Generator, picture: torch.Tensor, item: Placed, other: torch.Tensor) -> None:
    """Make one object of (3, 64, 64) unrecognisable, in place: blurred, blended, cut, shuffled or a flat blob."""
    left, top, right, bottom = item.box
    region = picture[:, top:bottom, left:right]
    height, width = region.shape[1:]
    kind = rng.integers(5)
    if kind == 0:
        factor = max(5, min(height, width) // 2)
        region.copy_(_blur(region, min(factor, height, width)))
    elif kind == 1:
        region.mul_(0.5).add_(0.5 * other[:, top:bottom, left:right])
    elif kind == 2:
        clean = to_pixels((background(rng) * 255).astype(np.uint8)[None])[0]
        x = left + int(width * rng.uniform(0.3, 0.45))
        y = top + int(height * rng.uniform(0.3, 0.45))
        part = [
            (slice(top, bottom), slice(x, right)),
            (slice(y, bottom), slice(left, right)),
            (slice(top, bottom), slice(left, x + width // 4)),
            (slice(top, y + height // 4), slice(left, right)),
        ]
        rows, columns = part[rng.integers(4)]
        picture[:, rows, columns] = clean[:, rows, columns]
    elif kind == 3:
        half_h, half_w = height // 2, width // 2
        tiles = [region[:, y : y + half_h, x : x + half_w].clone() for y in (0, half_h) for x in (0, half_w)]
        order = rng.permutation(4)
        while (order == np.arange(4)).sum() > 1:
            order = rng.permutation(4)
        for place, tile in enumerate(order):
            y, x = (place // 2) * half_h, (place % 2) * half_w
            region[:, y : y + half_h, x : x + half_w] = tiles[tile]
    else:
        corner = region[:, :2, :2].mean((1, 2), keepdim=True)
        mask = ((region - corner).abs().sum(0) > 0.35).float()[None]
        colour = (region * mask).sum((1, 2), keepdim=True) / mask.sum().clamp(min=1)
        soft = _blur(mask, max(2, min(3, height, width)))
        region.copy_(region * (1 - soft) + (colour + 0.08 * torch.randn(1, height, width)) * soft)


def degrade(rng: np.random.Generator, pictures: torch.Tensor) -> torch.Tensor:
    """What decoding and an imperfect denoiser do to a good picture: slight blur, noise in patches, shifted tones."""
    out = pictures.clone()
    for row in range(len(out)):
        draw = rng.random()
        if draw < 0.35:
            out[row] = F.avg_pool2d(F.pad(out[row : row + 1], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
        elif draw < 0.5:
            out[row] = F.interpolate(
                F.interpolate(out[row : row + 1], (32, 32), mode="area"),
                (64, 64),
                mode="bilinear",
                align_corners=False,
            )[0]
        if rng.random() < 0.5:
            cell = int(rng.choice([1, 2, 4]))
            grain = torch.randn(3, SIZE // cell, SIZE // cell)
            out[row] += float(rng.uniform(0, 0.16)) * grain.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return (out + 0.05 * torch.randn(len(out), 3, 1, 1)).clamp(-1, 1)


def make_batch(
    rng: np.random.Generator, images: np.ndarray, scenes: list[list[Placed]], rows: np.ndarray, spoilt: float = 0.3
) -> tuple[torch.Tensor, list[list[Placed]]]:
    """Degraded pictures, some of whose objects are spoilt, and the objects that are left."""
    pictures = to_pixels(images[rows])
    originals = pictures.clone()
    left = []
    for row, index in enumerate(rows):
        kept = []
        for item in scenes[index]:
            if rng.random() < spoilt:
                spoil(rng, pictures[row], item, originals[(row + 1) % len(rows)])
            else:
                kept.append(item)
        left.append(kept)
    return degrade(rng, pictures), left


def loss_of(network: OracleNetwork, pictures: torch.Tensor, scenes: list[list[Placed]]) -> torch.Tensor:
    names, colours, distances = targets(scenes)
    name, colour, box = network(pictures)
    weights = torch.ones(len(NAMES) + 1)
    weights[-1] = 0.5
    loss = F.cross_entropy(name, names, weights, ignore_index=IGNORE)
    known = colours != IGNORE
    if known.any():
        loss = loss + 0.5 * F.cross_entropy(colour, colours, ignore_index=IGNORE)
        where = known[:, None].expand_as(box)
        loss = loss + 8 * F.smooth_l1_loss(box[where], distances[where], beta=0.05)
    return loss


def train(
    images: np.ndarray, scenes: list[list[Placed]], path: Path, seconds: float, output: Path, report=print
) -> None:
    """Continue from `path` if it exists; write float16 weights to `output`. The last 2,000 scenes are held out."""
    torch.manual_seed(6)
    network = OracleNetwork(NAMES, tuple(COLOURS))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    step = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        step = state.get("step", 0)
    rng = np.random.default_rng(step)
    began = time.time()
    while (passed := (time.time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * min(1, 2 * (1 - passed) + 0.01)
        pictures, left = make_batch(rng, images, scenes, np.sort(rng.integers(0, len(images) - 2000, BATCH)))
        loss = loss_of(network, pictures, left)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            report(f"step {step} loss {loss.item():.4f} {measure(network, images[-400:], scenes[-400:])}")
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)
    weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    save_file(weights, output, {"names": json.dumps(NAMES), "colours": json.dumps(list(COLOURS))})
    output.chmod(0o644)


@torch.no_grad()
def measure(network: OracleNetwork, images: np.ndarray, scenes: list[list[Placed]], threshold: float = 0.5) -> dict:
    """Share of scenes whose detections are exactly right in names alone, and in names and colours."""
    network.eval()
    names = exact = 0
    for start in range(0, len(images), 64):
        part = network(to_pixels(images[start : start + 64]))
        for found, placed in zip(decode(network, *part, threshold), scenes[start : start + 64], strict=True):
            names += sorted(d.object for d in found) == sorted(p.thing.name for p in placed)
            exact += sorted((d.object, str(d.colour)) for d in found) == sorted(
                (p.thing.name, str(p.thing.colour)) for p in placed
            )
    network.train()
    return {"names": round(names / len(images), 4), "exact": round(exact / len(images), 4)}
