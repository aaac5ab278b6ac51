"""Train the bundled FLUX from nothing to a checkpoint. The same command goes on where it stopped.

    python -m apps.emoji_flux.train --workdir WORK --output WORK/emoji-flux

The shipped weights took 1.9 million scenes: minutes on one GPU, days on a CPU. `apps.emoji.gate` judges the result.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from apps.emoji.export import LATENT_SPACE

from . import captions, export, latents, text, training, vae
from .transformer import Model, build_transformer
from .world import World

POOLED = 4096  # captions whose pooled vectors are shown
FITTED = 2048  # scenes that the latent space is fitted to


def prepare(args: argparse.Namespace, tokenizer: Any, world: World) -> tuple[dict[str, torch.Tensor], latents.Space]:
    """The captions (token ids, things) and the latent space; made once, then read from the work folder."""
    bank, space = args.workdir / "captions.safetensors", args.workdir / LATENT_SPACE
    if not bank.exists():
        ids, things = captions.draw(args.captions, tokenizer)
        save_file({"ids": ids, "things": things}, bank)
    drawn = load_file(bank)
    if not space.exists():
        torch.manual_seed(0)
        parts = [world.render(things)[0].cpu() for things in drawn["things"][:FITTED].split(256)]
        save_file(latents.fit(torch.cat(parts)), space)
    return drawn, load_file(space)


def autoencoder(args: argparse.Namespace, world: World, things: torch.Tensor, space: latents.Space) -> Any:
    """The trained autoencoder."""
    path, net = args.workdir / "vae.pt", vae.build_vae()
    if not path.exists():
        log = reporter(args.workdir / "vae.log")
        vae.train(net, world, things, space, path, args.vae_seconds, log, max(1, args.batch // 4))
    net.load_state_dict(torch.load(path, weights_only=True))
    return net


def pooled_vectors(tokenizer: Any, ids: torch.Tensor) -> torch.Tensor:
    """Pooled vectors of the empty prompt and of some captions."""
    texts = tokenizer.batch_decode(ids[:POOLED].long(), skip_special_tokens=True)
    return text.pooled(*text.load_clip(), ["", *texts])


def reporter(path: Path):
    """A function that appends a time-stamped line to a log."""

    def report(line: str) -> None:
        with path.open("a") as file:
            print(time.strftime("%H:%M:%S"), line, file=file)

    return report


def train(args: argparse.Namespace) -> None:
    """Every part in turn, and the checkpoint."""
    args.workdir.mkdir(parents=True, exist_ok=True)
    tokenizer, world = text.build_tokenizer(), World(args.device, args.spacing)
    drawn, space = prepare(args, tokenizer, world)
    net = autoencoder(args, world, drawn["things"], space)
    torch.manual_seed(0)
    model = Model(text.build_encoder(len(tokenizer)), build_transformer(tuple(args.blocks)))
    bank = training.Captions(drawn["ids"], drawn["things"], tokenizer, args.device)
    trainer = training.Trainer(model, world, bank, space, pooled_vectors(tokenizer, drawn["ids"]))
    if (args.workdir / "transformer.pt").exists():
        trainer.load(args.workdir / "transformer.pt")
    training.run(trainer, args.workdir, args.seconds, args.batch)
    export.export(trainer.average.module, net, tokenizer, drawn["ids"].unique(), space, args.output)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="captions, states and logs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seconds", type=float, default=600, help="time to spend on the transformer, all in all")
    parser.add_argument("--vae-seconds", type=float, default=120, help="and on the autoencoder")
    parser.add_argument("--device", default=device)
    parser.add_argument("--batch", type=int, default=training.BATCH, help="scenes a step; the autoencoder's a quarter")
    parser.add_argument("--captions", type=int, default=600_000, help="drawn beforehand")
    parser.add_argument("--spacing", type=int, default=2, help="pixels between the sizes of things")
    parser.add_argument("--blocks", type=int, nargs=2, default=(3, 6), help="double and single blocks")
    return parser.parse_args(given)


if __name__ == "__main__":
    train(arguments())
