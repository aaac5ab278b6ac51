"""Looking without steering: the attention map of every word of a prompt, by step, layer and head."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer, choose_size, match_layers
from attncontrol.attention.maps import AttentionMaps, token_means
from attncontrol.families import family_of
from attncontrol.families.modular import see_runs, stock_like
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.prompt.align import tokenize


class Looking:
    """Keeps the maps of the first image of every call made inside a `with` block; changes nothing.

        with Looking(pipe, "a cat and a frog", layers="up.0") as looking:
            image = pipe("a cat and a frog").images[0]
        looking.maps[0, 0, 0, looking.words.index("cat")]

    It costs one pass of the denoiser up to the last layer for every step that is looked at.

    Args:
        pipe: A diffusers pipeline of a family that can be controlled.
        prompt: The prompt of the call.
        layers: Which layers, as the setting of methods; the model's default ones if absent. Those of the coarsest maps
            of at least 16x16 are taken.
        steps: The steps to look at, counted from 0; all if absent.
        per_layer: Whether to keep layers apart instead of their mean.
        per_head: Whether to keep heads apart instead of their mean.
        limit: Most bytes of maps.

    Raises:
        ValueError: If no word of the prompt is among the text keys, no layer matches, or the maps would be larger.
    """

    def __init__(
        self,
        pipe: Any,
        prompt: str,
        layers: str | None = None,
        steps: Collection[int] | None = None,
        *,
        per_layer: bool = False,
        per_head: bool = False,
        limit: int = 2**30,
    ) -> None:
        self.pipe, self.pattern, self.steps = stock_like(pipe), layers, steps
        self.per_layer, self.per_head, self.limit = per_layer, per_head, limit
        self.family = family_of(pipe)
        tokenized = tokenize(self.family.tokenizer, prompt)
        found = [(m[0], tokenized.token_indices(m.span())) for m in re.finditer(r"\w[\w'-]*", prompt)]
        self.words = [word for word, positions in found if positions]
        self.positions = [positions for _, positions in found if positions]
        if not self.words:
            raise ValueError(f"no word of {prompt!r} is among the positions that the text encoder keeps")
        self.layers: list[str] = []
        self.seen: list[int] = []
        self._kept: list[Tensor] = []
        self._step = self._looked = -1

    @property
    def maps(self) -> Tensor:
        """float32 [steps, layers, heads, words, height, width]; axes that were not kept apart have length 1.

        Shares of the softmax over all keys, a word of several tokens as their mean. Raises ValueError before a call.
        """
        if not self._kept:
            raise ValueError("nothing was looked at: call the pipeline inside the block, for more steps than these")
        return torch.stack(self._kept)

    def __enter__(self) -> Looking:
        scheduler = self.pipe.scheduler
        if "step" in vars(scheduler):
            raise ValueError("this pipeline is under control: leave the `with attach(...)` block first")
        self._scheduler, stock, self._step = scheduler, scheduler.step, 0

        def step(*args: Any, **kwargs: Any) -> Any:
            self._step += 1
            return stock(*args, **kwargs)

        scheduler.step = step
        self._end_of_runs = see_runs(self.pipe)
        self._handle = self.family.denoiser.register_forward_pre_hook(self._before_denoiser, with_kwargs=True)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handle.remove()
        self._end_of_runs()
        vars(self._scheduler).pop("step", None)

    def _before_denoiser(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Looks at the first call of a step; later ones are of negative prompts, or its own pass."""
        if self._looked == self._step:
            return
        self._looked = self._step
        if self.steps is not None and self._step not in self.steps:
            return
        with torch.inference_mode(False), torch.no_grad():
            call = self.family.bind(args, kwargs)
            layers = self._choose(self.family.layers(self.family.grid(call)))
            pass_ = GuidedPass(self.family, call, layers)
            with pass_.run(pass_.start, [0]) as (_, maps):
                self._keep(maps)

    def _choose(self, layers: Sequence[Layer]) -> list[Layer]:
        cross = [layer for layer in layers if layer.is_cross]
        if self.pattern is None:
            wanted = [layer for layer in cross if layer.by_default]
        else:
            wanted = match_layers(cross, self.pattern)
        size = choose_size(wanted)
        return [layer for layer in wanted if layer.size == size]

    def _keep(self, maps: AttentionMaps) -> None:
        """Adds one step, layer by layer, so that never more than one is there with all its keys."""
        kept: list[Tensor] = []
        for m in maps.layers:
            words = self._of_words(m.probabilities[0], m.layer.size)
            words = words if self.per_head else words.mean(0, keepdim=True)
            if self.per_layer or not kept:
                self._check_size(words.numel() * 4 * (len(maps.layers) if self.per_layer else 1))
                kept.append(words)
            elif kept[0].shape != words.shape:
                raise ValueError("these layers have different numbers of heads: keep layers apart, or heads together")
            else:
                kept[0] += words
        if len({words.shape for words in kept}) > 1:
            raise ValueError("these layers have different numbers of heads: choose fewer layers, or heads together")
        step = torch.stack(kept) if self.per_layer else torch.stack(kept) / len(maps.layers)
        self._kept.append(step.cpu())
        self.seen.append(self._step)
        self.layers = [m.layer.path for m in maps.layers]

    def _of_words(self, probabilities: Tensor, size: tuple[int, int]) -> Tensor:
        """[heads, pixels, keys] -> [heads, words, height, width]."""
        heads = probabilities.unflatten(1, size)
        pairs = [(head, word) for head in range(len(heads)) for word in self.positions]
        return token_means(heads, pairs, self.family.text).unflatten(0, (len(heads), -1))

    def _check_size(self, step: int) -> None:
        needed = step * (len(self._kept) + 1)
        if needed > self.limit:
            raise ValueError(
                f"the maps of {len(self._kept) + 1} steps take {needed / 2**20:.0f} MiB, more than the "
                f"{self.limit / 2**20:.0f} allowed: look at fewer steps or layers, or keep heads or layers together"
            )
