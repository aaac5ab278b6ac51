"""What an inversion keeps, and the file it is kept in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import DDIMScheduler
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from attncontrol.families.unet import UNetFamily
from attncontrol.images.files import atomic_file

InversionMethod = Literal["ddim", "null-text", "dpl"]
METHODS: tuple[str, ...] = get_args(InversionMethod)
FORMAT = "attncontrol inversion 1"
KEY = "attncontrol"
TENSORS = ("latents", "null", "tokens", "sampled", "background")
SAMPLES = 16  # weights of the UNet and of the text encoder that tell models apart


@dataclass(kw_only=True)
class Inversion:
    """A picture as noise, and what guided sampling needs to come back to it.

    `latents` [steps + 1, channels, height, width] are those of the inversion, from the picture's to the noise. Of
    every step learned so far, from noise to picture, `null` [steps, positions, width] holds the unconditional text
    states and `tokens` [steps, pieces, width] the input embeddings of the nouns' pieces, where the method learns them.
    `sampled` [channels, height, width] are the latents after these steps. `nouns` are the learned words with their
    token positions. `background` [height, width] is 1 where no noun is. `losses` has a list per learned step:
    "null" the errors before every update, "nouns" (total, balancing, disjoint, background) of every look.
    """

    prompt: str
    method: str
    guidance_scale: float
    size: tuple[int, int]  # (height, width) in pixels
    scheduler: dict[str, Any]
    model: dict[str, Any]
    settings: dict[str, Any]
    latents: Tensor
    image: str  # SHA-256 of the pixels
    nouns: list[tuple[str, list[int]]] = field(default_factory=list)
    null: Tensor | None = None
    tokens: Tensor | None = None
    sampled: Tensor | None = None
    background: Tensor | None = None
    losses: list[dict[str, Any]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Of sampling."""
        return len(self.latents) - 1

    @property
    def learned(self) -> int:
        """How many steps are done."""
        return self.steps if self.method == "ddim" else len(self.losses)

    @property
    def is_complete(self) -> bool:
        """Whether every step is done; only then can it be used."""
        return self.learned == self.steps

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes one safetensors file whose header has the rest as JSON; it is there complete or not at all.

        Args:
            path: The file to write.
            overwrite: Whether a file that is there may be replaced.

        Raises:
            ValueError: If the file is there already or cannot be written.
        """
        tensors = {n: t.detach().cpu().contiguous() for n in TENSORS if (t := getattr(self, n)) is not None}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in TENSORS}
        with atomic_file(path, overwrite=overwrite) as file:
            file.write(save(tensors, {KEY: json.dumps({"format": FORMAT, **rest})}))

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Reads what `save` wrote.

        Args:
            path: The file.

        Returns:
            The inversion, on the CPU.

        Raises:
            ValueError: If there is no such file, or it is damaged or something else.
        """
        try:
            with safe_open(path, "pt") as file:
                rest = json.loads((file.metadata() or {}).get(KEY, "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise ValueError(f"there is no inversion at {str(path)!r}") from error
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as an inversion: {error}") from error
        if not isinstance(rest, dict) or rest.pop("format", None) != FORMAT:
            raise ValueError(f"{str(path)!r} is no inversion of attncontrol, or of another version of its format")
        try:
            return cls(**{**rest, "size": tuple(rest["size"])}, **tensors)._checked()
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is a damaged inversion: {error}") from error

    def _checked(self) -> Inversion:
        """Raises ValueError if the parts do not belong together."""
        if self.method not in METHODS or self.latents.ndim != 4:
            raise ValueError(f"its method is {self.method!r}, its latents are {tuple(self.latents.shape)}")
        for name, tensor in (("null", self.null), ("tokens", self.tokens)):
            if tensor is not None and len(tensor) != len(self.losses):
                raise ValueError(f"{len(self.losses)} steps are done, {name!r} has {len(tensor)}")
        if not all(torch.isfinite(t).all() for n in TENSORS if (t := getattr(self, n)) is not None):
            raise ValueError("it holds numbers that are not finite")
        return self

    def check(self, family: UNetFamily) -> None:
        """Raises ValueError, saying what differs, if the inversion is unfinished or of another model or scheduler."""
        if not self.is_complete:
            raise ValueError(
                f"the inversion is unfinished: {self.learned} of {self.steps} steps are done. Call invert again with "
                "the same arguments and path, and it goes on"
            )
        differing = differences(self.model, fingerprint(family))
        if differing:
            raise ValueError(f"the inversion is of another model: {differing}")
        differing = differences(self.scheduler, scheduler_config(family))
        if differing:
            raise ValueError(f"the inversion was made with another scheduler: {differing}")

    def goes_on_with(self, other: Inversion) -> str:
        """What makes another inversion a different one, empty if it may go on where this one stopped."""
        names = ("image", "prompt", "method", "guidance_scale", "size", "settings", "nouns")
        mine, theirs = ({name: _plain(getattr(one, name)) for name in names} for one in (self, other))
        found = [differences(mine, theirs), differences(self.model, other.model)]
        if self.steps != other.steps:
            found.append(f"steps: {self.steps} there, {other.steps} here")
        found.append(differences(self.scheduler, other.scheduler))
        return "; ".join(filter(None, found))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two sets of facts, as one reads it: "width: 128 there, 64 here"; empty if nothing."""
    found = []
    for name in {**there, **here}:
        a, b = there.get(name), here.get(name)
        if name.endswith("weights"):
            if not _close(a, b):
                found.append(f"the {name} differ")
        elif a != b:
            found.append(f"{name}: {a} there, {b} here")
    return ", ".join(found)


def _close(a: Any, b: Any) -> bool:
    """Equal up to the rounding of half precision."""
    return bool(a) and bool(b) and len(a) == len(b) and torch.allclose(
        torch.tensor(a), torch.tensor(b), rtol=0.02, atol=1e-4
    )  # fmt: skip


def fingerprint(family: UNetFamily) -> dict[str, Any]:
    """What tells a model from others: shapes, and some weights of UNet and text encoder."""
    config = family.denoiser.config
    embedding = family.pipe.text_encoder.get_input_embeddings().weight
    return {
        "latent channels": family.latent_channels,
        "text width": config.cross_attention_dim,
        "blocks": list(config.block_out_channels),
        "UNet weights": _some(family.denoiser.conv_in.weight),
        "text encoder weights": _some(embedding),
    }


def _some(weight: Tensor) -> list[float]:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].float().cpu().tolist()


SCHEDULE = (
    "beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "set_alpha_to_one",
    "steps_offset", "timestep_spacing", "rescale_betas_zero_snr", "trained_betas",
)  # fmt: skip


def scheduler_config(family: UNetFamily) -> dict[str, Any]:
    """What a DDIM scheduler's steps depend on. Raises ValueError for a scheduler that has no inverse."""
    scheduler = family.pipe.scheduler
    if not isinstance(scheduler, DDIMScheduler):
        raise ValueError(
            f"the pipeline samples with {type(scheduler).__name__}, which has no inverse: set "
            "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
        )
    config = scheduler.config
    for name in ("clip_sample", "thresholding"):
        if config.get(name):
            raise ValueError(
                f"the scheduler has {name}=True, and what it cuts off cannot be inverted: set "
                f"pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, {name}=False)"
            )
    if config.timestep_spacing not in ("leading", "trailing"):
        raise ValueError(
            f"the scheduler's timestep_spacing is {config.timestep_spacing!r}; inversion needs 'leading' or 'trailing'"
        )
    return _plain({"scheduler": "DDIM", **{name: config.get(name) for name in SCHEDULE}})
