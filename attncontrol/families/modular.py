"""Modular pipelines of diffusers: what a stock pipeline knows of itself, their blocks, state and guider know.

Blocks call the denoiser once per condition, in an order of the guider's, so a call holds each image once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from diffusers import ModularPipeline
from diffusers.guiders import BaseGuidance

CONDITIONAL = "pred_cond"  # what guiders call the prediction for the prompt
TEXT = ["prompt", "prompt_2", "prompt_3", "max_sequence_length"]
IN_BLOCKS = {  # what blocks that read the prompt call what stock pipelines call so
    "prompt_template_encode": "prompt_template_encode",
    "prompt_template_encode_start_idx": "prompt_template_encode_start_idx",
    "tokenizer_max_length": "tokenizer_max_length",
    "system_message": "DEFAULT_SYSTEM_MESSAGE",
}


class ModularView:
    """A modular pipeline in the shape of a stock one; its class has the pipeline's name. Made by `stock_like`.

    Args:
        pipe: The modular pipeline, whose components are the view's attributes.
    """

    do_classifier_free_guidance: ClassVar[bool] = False  # no call holds an unconditional copy

    def __init__(self, pipe: ModularPipeline) -> None:
        self.pipe = pipe
        self.state: Any = None  # of the present run

    def __getattr__(self, name: str) -> Any:
        if name in IN_BLOCKS:
            for block in _all_blocks(self.pipe._blocks):
                if hasattr(block, IN_BLOCKS[name]):
                    return getattr(block, IN_BLOCKS[name])
        return getattr(self.pipe, name)

    @property
    def num_timesteps(self) -> int | None:
        """How many steps the present run has; None before it is known."""
        timesteps = self.state.get("timesteps") if self.state is not None else None
        return None if timesteps is None else len(timesteps)

    @property
    def begins_late(self) -> bool:
        """Whether the present run begins after the first step, as from a picture."""
        return self.num_timesteps is not None and self.num_timesteps < len(self.pipe.scheduler.timesteps)

    def encode_prompt(self, **arguments: Any) -> None:
        """Stands where control looks at the prompt of a stock pipeline's call."""

    def run(self, blocks: Any, state: Any) -> tuple[Any, Any]:
        """Runs blocks of the pipeline; gives the pipeline and the state back, as blocks do."""
        if isinstance(state.get("prompt"), list):
            state.set("prompt", list(state.get("prompt")))  # Z-Image writes its chat into the list
        self.state = state
        self.encode_prompt(**state.get(TEXT))
        try:
            with conditional_first(getattr(self.pipe, "guider", None)):
                return blocks(self.pipe, state)
        finally:
            self.state = None


class _SeenBlocks:
    """Stands before a pipeline's blocks, so that the view sees their runs."""

    def __init__(self, view: ModularView, blocks: Any) -> None:
        self.view, self.blocks = view, blocks

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by copies, before there are blocks
            raise AttributeError(name)
        return getattr(self.blocks, name)

    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        return self.view.run(self.blocks, state)


def stock_like(pipe: Any) -> Any:
    """The view of a modular pipeline; any other pipeline as it is."""
    if not isinstance(pipe, ModularPipeline):
        return pipe
    return type(type(pipe).__name__, (ModularView,), {})(pipe)


def stock_classes(pipe: Any) -> tuple[type, ...]:
    """The classes of a pipeline, or of that which a view shows."""
    return type(pipe.pipe if isinstance(pipe, ModularView) else pipe).__mro__


def see_runs(pipe: Any) -> Callable[[], None]:
    """Lets a view see the runs of its pipeline; returns the function that ends it. Nothing to do for stock ones."""
    if not isinstance(pipe, ModularView):
        return lambda: None
    modular, blocks = pipe.pipe, pipe.pipe._blocks
    modular._blocks = _SeenBlocks(pipe, blocks)

    def end() -> None:
        modular._blocks = blocks

    return end


@contextmanager
def conditional_first(guider: Any) -> Iterator[None]:
    """Inside, every step begins with the call for the prompt, whatever the guider's order: it moves the latents."""
    names = [name for name in ("prepare_inputs", "prepare_inputs_from_block_state") if hasattr(guider, name)]

    def ordered(prepare: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        @functools.wraps(prepare)
        def wrapper(*args: Any, **kwargs: Any) -> list[Any]:
            return _ordered(guider, prepare(*args, **kwargs))

        return wrapper

    try:
        for name in names:
            setattr(guider, name, ordered(getattr(guider, name)))
        yield
    finally:
        for name in names:
            vars(guider).pop(name, None)


def _ordered(guider: Any, batches: list[Any]) -> list[Any]:
    asked = [getattr(batch, guider._identifier_key) for batch in batches]
    if CONDITIONAL not in asked:
        raise ValueError(
            f"{type(guider).__name__} asks for {', '.join(asked)}, so the call for the prompt cannot be told: "
            f"under control one must be {CONDITIONAL}"
        )
    first = asked.index(CONDITIONAL)
    if first and type(guider).prepare_models is not BaseGuidance.prepare_models:
        raise ValueError(
            f"{type(guider).__name__} changes the model for its calls in turn, and asks for {CONDITIONAL} after "
            f"{asked[0]}: under control {CONDITIONAL} must come first"
        )
    return [batches[first], *batches[:first], *batches[first + 1 :]]


def _all_blocks(block: Any) -> Iterator[Any]:
    """A block and all blocks in it."""
    yield block
    inside = [*block.sub_blocks.values(), *([block.controlled] if hasattr(block, "controlled") else [])]
    for part in inside:
        yield from _all_blocks(part)
