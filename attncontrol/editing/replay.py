"""Sampling an inversion again: the stock pipeline from the inversion's noise, with the text states of every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attncontrol.editing.inversion import Inversion
from attncontrol.editing.network import embedded
from attncontrol.families.unet import UNetFamily
from attncontrol.prompt.align import tokenize


def step_states(family: UNetFamily, inversion: Inversion, prompts: Sequence[str]) -> list[Tensor]:
    """The text states of every step for the rows of a call: all prompts unconditional, then all prompts.

    Nouns that the inversion has learned stand wherever a prompt has them in the same pieces. Without guidance there
    are no unconditional rows.
    """
    pipe, device = family.pipe, family.denoiser.device
    places = [learned_places(family, inversion, prompt) for prompt in prompts]

    def encode(prompt: str, step: int, place: list[tuple[int, int]]) -> Tensor:
        rows = None if inversion.tokens is None else inversion.tokens[step, [row for row, _ in place]]
        with embedded(pipe.text_encoder, [position for _, position in place], rows):
            return pipe.encode_prompt(prompt, device, 1, False)[0]

    states = []
    for step in range(inversion.steps):
        if step == 0 or inversion.tokens is not None:
            conditional = [encode(prompt, step, place) for prompt, place in zip(prompts, places, strict=True)]
        if step == 0 or inversion.null is not None:
            empty = encode("", 0, []) if inversion.null is None else inversion.null[step][None].to(conditional[0])
        unconditional = [empty] * len(prompts) if inversion.guidance_scale > 1 else []
        states.append(torch.cat([*unconditional, *conditional]))
    return states


def learned_places(family: UNetFamily, inversion: Inversion, prompt: str) -> list[tuple[int, int]]:
    """Which row of the learned embeddings stands at which position of a prompt.

    A noun is looked up by its pieces, in order; one that occurs several times is matched to its occurrences in turn.
    """
    tokens = tokenize(family.tokenizer, inversion.prompt), tokenize(family.tokenizer, prompt)
    found, row, used = [], 0, set()
    for _, positions in inversion.nouns:
        wanted = [tokens[0].pieces[p] for p in positions]
        for start in range(1, tokens[1].n_tokens - len(wanted)):
            here = range(start, start + len(wanted))
            if [tokens[1].pieces[p] for p in here] == wanted and not used & set(here):
                used |= set(here)
                found += [(row + i, p) for i, p in enumerate(here)]
                break
        row += len(positions)
    return found


@contextmanager
def replaying(unet: nn.Module, states: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the n-th call of the UNet gets the n-th text states, [rows, positions, width]."""
    calls = iter(states)

    def put_in(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "encoder_hidden_states": next(calls).to(kwargs["encoder_hidden_states"])}

    handle = unet.register_forward_pre_hook(put_in, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
