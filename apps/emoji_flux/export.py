"""Put the trained parts together as a FluxPipeline folder, float16 safetensors, replaced in one go."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5TokenizerFast

from apps.emoji.export import LATENT_SPACE, publish
from attncontrol.models import resolve

from . import text
from .latents import Space
from .transformer import Model, build_scheduler


def export(
    model: Model, vae: AutoencoderKL, tokenizer: T5TokenizerFast, seen: Tensor, space: Space, output: Path
) -> None:
    """Writes the folder `output`. `seen`: the tokens of the captions; the others get a meaning."""
    model = copy.deepcopy(model).cpu()
    text.settle(model.encoder, tokenizer, seen)
    clip, clip_tokenizer = text.load_clip()
    pipe = FluxPipeline(
        scheduler=build_scheduler(),
        vae=copy.deepcopy(vae).cpu().half(),
        text_encoder=clip.half(),
        tokenizer=clip_tokenizer,
        text_encoder_2=model.encoder.half(),
        tokenizer_2=tokenizer,
        transformer=model.transformer.half(),
    )

    def write(folder: Path) -> None:
        pipe.save_pretrained(folder)
        save_file({name: value.cpu() for name, value in space.items()}, folder / LATENT_SPACE)
        shutil.copy2(Path(resolve("emoji-flux")) / "call.json", folder)
        name_tokenizer(folder)

    publish(output, write)


def name_tokenizer(folder: Path) -> None:
    """Writes the class name that transformers 4 and 5 both know: in 5, T5TokenizerFast calls itself T5Tokenizer."""
    index, config = folder / "model_index.json", folder / "tokenizer_2" / "tokenizer_config.json"
    parts, settings = (json.loads(path.read_text()) for path in (index, config))
    parts["tokenizer_2"] = ["transformers", "T5TokenizerFast"]
    settings["tokenizer_class"] = "T5TokenizerFast"
    for path, record in ((index, parts), (config, settings)):
        path.write_text(json.dumps(record, indent=2) + "\n")
