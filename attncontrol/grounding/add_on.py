"""Gates that were trained for a UNet that has none, in a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file

FILE = "gates.safetensors"
"""The name of such a file beside a checkpoint, which `AttentionControlPipeline.from_pretrained` then adds."""


def add_gates(pipe: Any, path: str | Path) -> None:
    """Gives the UNet of a Stable Diffusion 1.x pipeline GLIGEN's gates; without grounding it draws as before.

    Args:
        pipe: Its UNet is replaced by one of the same weights with gates.
        path: A safetensors file of the gates' weights, by their names in a UNet with gates. Blocks that it has no
            gate for get closed ones.

    Raises:
        ValueError: If the UNet has gates already, or the file cannot be read or does not fit it.

    Example:
        add_gates(pipe, "gates.safetensors")
        pipe("a cat and a frog", layout=boxes, grounding=True)
    """
    plain = pipe.unet
    if plain.config.attention_type != "default":
        raise ValueError("the UNet of this pipeline has gates already")
    try:
        gates = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read the gates {str(path)!r}: {error}") from error
    config = {key: value for key, value in plain.config.items() if not key.startswith("_")}
    with torch.device("meta"):
        gated = UNet2DConditionModel.from_config({**config, "attention_type": "gated"})
    weights, known = dict(plain.state_dict()), gated.state_dict()
    own = {name: like for name, like in known.items() if name not in weights}
    wrong = [name for name in gates if name not in own or gates[name].shape != own[name].shape]
    if wrong or not gates:
        found = f"{wrong[0]!r} is no gate of this UNet" if wrong else "it is empty"
        raise ValueError(f"the gates {str(path)!r} do not fit this pipeline: {found}")
    like = {"dtype": plain.dtype, "device": plain.device}
    weights |= {
        name: gates[name].to(**like) if name in gates else torch.zeros(own[name].shape, **like) for name in own
    }
    gated.load_state_dict(weights, assign=True)
    gated.train(plain.training).requires_grad_(next(plain.parameters()).requires_grad)
    pipe.unet = gated
