"""Train the bundled model, a stage at a time or all in turn. Every stage that trains goes on from its last state.

python -m apps.emoji.train data --workdir WORK       # render the two data sets (2 minutes)
python -m apps.emoji.train text --workdir WORK       # tokenizer and CLIP
python -m apps.emoji.train oracle --workdir WORK     # the detector; writes the weights in the package
python -m apps.emoji.train vae --workdir WORK        # decoder and encoder
python -m apps.emoji.train unet --workdir WORK --data clean --seconds 18000   # stable phase on clean captions
python -m apps.emoji.train unet --workdir WORK --seconds 18000   # and noisy ones, as long and as often as wanted
torchrun --nproc-per-node 2 -m apps.emoji.train unet --workdir WORK   # likewise, a process per core
python -m apps.emoji.train decay --workdir WORK --seconds 3600   # from there to learning rate zero
python -m apps.emoji.train export --workdir WORK --state unet_decayed.pt   # into the package
python -m apps.emoji.train gates --workdir WORK --seconds 1500   # GLIGEN's gates for the shipped UNet
python -m apps.emoji.train restore --workdir WORK    # begin a work folder from the shipped weights
python -m apps.emoji.train all --workdir WORK --seconds 36000
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer

from attncontrol.evaluation import oracle
from attncontrol.models import resolve

from . import dataset, export, gates, grounding, latents, oracle_training, text, unet, vae
from .captions import Noise
from .scenes import Placed
from .vocabulary import COLOURS, NAMES


def contents_of(placed: list[list]) -> torch.Tensor:
    """(N, 35) float32: 1 where the picture shows the name or colour."""
    words = {word: index for index, word in enumerate((*NAMES, *COLOURS))}
    contents = torch.zeros(len(placed), len(words))
    for row, things in enumerate(placed):
        for item in things:
            contents[row, words[item.thing.name]] = 1
            if item.thing.colour:
                contents[row, words[item.thing.colour]] = 1
    return contents


def stage_data(args: argparse.Namespace) -> None:
    dataset.build(args.workdir / "data" / "clean", 48_000, dataset.CLEAN, 1)
    dataset.build(args.workdir / "data" / "noisy", 72_000, Noise(), 2)


def stage_text(args: argparse.Namespace) -> None:
    images, captions, placed = dataset.load(args.workdir / "data" / "clean")
    tokenizer = text.build_tokenizer()
    torch.manual_seed(0)
    model = text.build_clip(tokenizer)
    text.train(
        model,
        tokenizer,
        images,
        captions,
        contents_of(placed),
        args.seconds,
        report=reporter(args.workdir / "text.log"),
    )
    model.save_pretrained(args.workdir / "clip")
    tokenizer.save_pretrained(args.workdir / "clip")


def load_latents(workdir: Path, name: str = "noisy") -> tuple[torch.Tensor, list[str], list[list[Placed]]]:
    """Latents (float16; computed once), captions and placed things of a data set."""
    images, captions, placed = dataset.load(workdir / "data" / name)
    path, space_path = workdir / f"latents_{name}.pt", workdir / export.LATENT_SPACE
    if not path.exists():
        space = load_file(space_path) if space_path.exists() else latents.fit(images[:8000])
        encoded = [latents.encode(images[i : i + 4000], space).half() for i in range(0, len(images), 4000)]
        save_file(space, space_path)
        torch.save(torch.cat(encoded), path)
    return torch.load(path, weights_only=True), captions, placed


def load_scenes(workdir: Path, names: list[str], tokenizer: CLIPTokenizer) -> unet.Batch:
    """All scenes of some data sets, ready for the denoiser."""
    word_ids = {word: tokenizer(word).input_ids[1] for word in (*NAMES, *COLOURS)}
    sets = [load_latents(workdir, name) for name in names]
    return unet.Batch(
        torch.cat([rows for rows, _, _ in sets]),
        [caption for _, captions, _ in sets for caption in captions],
        torch.cat([grounding.pack(placed, word_ids) for _, _, placed in sets]),
    )


def stage_unet(args: argparse.Namespace, decay: bool = False) -> None:
    """Stable phase: shapes are learned from clean captions, neglect and mix-ups afterwards from noisy ones too."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    encoder = CLIPModel.from_pretrained(args.workdir / "clip").text_model.to(device)
    tokenizer = CLIPTokenizer.from_pretrained(args.workdir / "clip")
    trainer = unet.Trainer(
        unet.Conditioner(encoder, tokenizer), device, tuple(args.widths), args.bf16, args.learning_rate
    )
    if (args.workdir / "unet.pt").exists():
        trainer.load(args.workdir / "unet.pt")
    unet.run(trainer, load_scenes(args.workdir, args.data, tokenizer), args.workdir, args.seconds, decay)


def reporter(path: Path):
    """A function that appends a time-stamped line to a log."""

    def report(line: str) -> None:
        with open(path, "a") as file:
            print(time.strftime("%H:%M:%S"), line, file=file)

    return report


def stage_vae(args: argparse.Namespace) -> None:
    load_latents(args.workdir)
    images = dataset.load(args.workdir / "data" / "noisy")[0]
    space = load_file(args.workdir / export.LATENT_SPACE)
    vae.train(
        images, space, args.workdir / "vae.pt", args.seconds, True, reporter(args.workdir / "vae.log"), args.bf16
    )


def stage_oracle(args: argparse.Namespace) -> None:
    noisy, clean = (dataset.load(args.workdir / "data" / name) for name in ("noisy", "clean"))
    images = np.concatenate([noisy[0], clean[0]])
    log = reporter(args.workdir / "oracle.log")
    oracle_training.train(images, noisy[2] + clean[2], args.workdir / "oracle.pt", args.seconds, oracle.WEIGHTS, log)


def stage_export(args: argparse.Namespace) -> None:
    export.export(args.workdir, args.workdir / args.state, tuple(args.widths), args.output)


def stage_restore(args: argparse.Namespace) -> None:
    export.restore(Path(resolve("emoji")), args.workdir)


def stage_gates(args: argparse.Namespace) -> None:
    """Gates for the UNet of the shipped checkpoint; the rest of it stays as it is."""
    pipe = StableDiffusionPipeline.from_pretrained(resolve("emoji"))
    phrases = gates.Phrases(pipe.text_encoder, pipe.tokenizer)
    trainer = gates.Trainer(pipe.unet, unet.Conditioner(pipe.text_encoder, pipe.tokenizer), phrases, args.bf16)
    rows, captions, placed = gates.scenes(args.workdir, load_file(Path(resolve("emoji")) / export.LATENT_SPACE))
    gates.run(trainer, rows, captions, gates.pack(placed, phrases), args.workdir, args.seconds)
    gates.export(args.workdir / "gates.pt", args.workdir / gates.FILE)


def stage_decay(args: argparse.Namespace) -> None:
    """Bring the learning rate of the last stable state down to zero: the state to ship."""
    stage_unet(args, decay=True)


def stage_all(args: argparse.Namespace) -> None:
    """Everything from nothing to a checkpoint, each stage for its usual time."""
    half = args.seconds / 2
    both = ["clean", "noisy"]
    plan = [("data", 0, []), ("text", 240, []), ("oracle", 1200, []), ("vae", 1200, [])]
    plan += [("unet", half, both[:1]), ("unet", half, both), ("decay", half / 2, both)]
    for name, args.seconds, args.data in plan:
        STAGES[name](args)
    args.state = "unet_decayed.pt"
    stage_export(args)


STAGES = {
    "data": stage_data,
    "text": stage_text,
    "oracle": stage_oracle,
    "vae": stage_vae,
    "unet": stage_unet,
    "decay": stage_decay,
    "gates": stage_gates,
    "export": stage_export,
    "restore": stage_restore,
    "all": stage_all,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1800, help="time to spend on this stage (all: on the UNet)")
    parser.add_argument(
        "--data", choices=["clean", "noisy"], nargs="+", default=["clean", "noisy"], help="unet, decay: captions"
    )
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="vae, unet, decay, gates: mixed precision; 1.6 times as fast on CPUs with avx512_bf16, slower on others",
    )
    parser.add_argument("--learning-rate", type=float, default=unet.LEARNING_RATE, help="unet, decay: the highest")
    parser.add_argument("--widths", type=int, nargs=2, default=(48, 128), help="channels of the UNet's two levels")
    parser.add_argument("--state", default="unet.pt", help="export: training state in the work folder")
    parser.add_argument("--output", type=Path, default=Path(resolve("emoji")), help="export: folder to write")
    args = parser.parse_args()
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
