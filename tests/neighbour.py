"""Attention maps as attention-map-diffusers 1.0 (MIT) captures them on tiny random pipelines, and their record.

`python -m tests.neighbour` writes tests/golden/neighbour anew; that package must be installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from attncontrol import AttentionControlPipeline, MapSettings
from attncontrol.attention.maps import token_means
from attncontrol.families import family_of
from attncontrol.guidance.looking import prompt_words
from tests import tiny, tiny_transformers

FOLDER = Path(__file__).parent / "golden" / "neighbour"
PROMPT = "a red cat and a blue frog"
STEPS = 2
UNETS = {"Stable Diffusion": tiny.stable_diffusion, "XL": tiny.stable_diffusion_xl}
SHARED = ("FLUX.1", "SD 3", "FLUX.2 Klein", "Z-Image", "Sana")
PIPELINES = {**UNETS, **{name: tiny_transformers.TRANSFORMERS[name] for name in SHARED}}
# Of FLUX.1's single blocks it shows no image-to-text maps
PLACES = {"Z-Image": "single", "Sana": "block", "FLUX.2 Klein": "joint, single"} | dict.fromkeys(
    UNETS, "down, mid, up"
)


def file_of(name: str) -> Path:
    return FOLDER / f"{name.lower().replace(' ', '_')}.safetensors"


def draw(pipe: Any, **arguments: Any) -> Any:
    call = {"num_inference_steps": STEPS, "height": 32, "width": 32, "output_type": "latent", **arguments}
    call |= tiny_transformers.CALLS.get(pipe.stock_name, {})
    return pipe(PROMPT, generator=torch.Generator().manual_seed(0), **call)


def built(name: str) -> AttentionControlPipeline:
    pipe = AttentionControlPipeline.from_pipe(PIPELINES[name]())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def own_maps(pipe: AttentionControlPipeline, name: str) -> dict[str, Tensor]:
    """Ours of the last step by layer: [heads, words, height, width]."""
    settings = MapSettings(layers=PLACES.get(name, "joint"), steps=(STEPS - 1,), per_layer=True, per_head=True)
    found = draw(pipe, record_maps=settings).control.images[0].word_maps
    return dict(zip(found.layers, found.maps[0], strict=True))


def their_maps(pipe: AttentionControlPipeline, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Theirs of the same layers, words averaged over the token positions that we find."""
    from attention_map_diffusers import AttentionCapture

    family, size = family_of(pipe), tuple(next(iter(own.values())).shape[-2:])
    with AttentionCapture(pipe, relations=["image->text"], heads="all") as capture:
        draw(pipe)
    names = {f"{family.component}.{layer.name}": layer.path for layer in family.layers(size)}
    conditional_first = "ZImage" in type(pipe).__name__
    maps: dict[str, Tensor] = {}
    for record in capture.compute():
        path = names.get(record.layer_id)
        if path in own and path not in maps:  # a second call is the negative prompt's
            heads = record.data[0 if conditional_first else -1].float().unflatten(1, size)
            pairs = [(head, positions) for head in range(len(heads)) for _, positions in prompt_words(family, PROMPT)]
            maps[path] = token_means(heads, pairs, family.text).unflatten(0, (len(heads), -1))
    return maps


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in PIPELINES:
        pipe = built(name)
        own = own_maps(pipe, name)
        theirs = their_maps(pipe, own)
        save_file({path: theirs[path].contiguous() for path in own}, file_of(name))
        print(name, len(own), max(float((own[path] - theirs[path]).abs().max()) for path in own), flush=True)


if __name__ == "__main__":
    main()
