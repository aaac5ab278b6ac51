"""Feature caches: what a denoiser is given so that it does not compute everything in every step."""

from __future__ import annotations

from torch import nn


def check_no_cache(denoiser: nn.Module, name: str) -> None:
    """Raises ValueError for a denoiser, of a pipeline called `name`, that hands on features of earlier calls.

    A guided pass needs maps that depend on its own latents, and what it computes would be handed on to the next step.
    """
    remedy = ""
    for part in denoiser.modules():
        if getattr(vars(part).get("forward"), "__module__", "").startswith("DeepCache"):
            remedy = "call disable() of its DeepCacheSDHelper first"
        hooks = getattr(getattr(part, "_diffusers_hook", None), "hooks", {})
        # of diffusers' hooks only those of caches have a state
        if any(getattr(hook, "_is_stateful", False) for hook in hooks.values()):
            remedy = "take the cache off first, with disable_cache() where you used enable_cache()"
    if remedy:
        raise ValueError(f"the denoiser of this {name} caches features, and guided passes would spoil them: {remedy}")
