"""The modules of a denoiser that guided passes ask for, looked up once a run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from attncontrol.families.compiled import is_compiled


@dataclass(frozen=True)
class Parts:
    """What is found by walking through a denoiser's modules, which takes longer than a small model's forward.

    Args:
        parameters: Where each parameter is: the module's own dict and the name in it. Sequential offloading puts new
            parameter objects there in every forward.
        attention: Modules with an attention processor.
        checkpointed: Modules that can recompute their activations.
        adapters: Layers of LoRA and its like.
        moves_weights: Whether hooks of diffusers load or cast weights for the forward of their layer only.
        is_compiled: Whether `torch.compile` stands before the denoiser or a part of it.
    """

    parameters: tuple[tuple[dict[str, nn.Parameter | None], str], ...]
    attention: tuple[nn.Module, ...]
    checkpointed: tuple[nn.Module, ...]
    adapters: nn.ModuleList
    moves_weights: bool
    is_compiled: bool

    @classmethod
    def of(cls, called: nn.Module) -> Parts:
        """Those of the denoiser that a pipeline calls."""
        modules = list(called.modules())
        return cls(
            tuple((m._parameters, name) for m in modules for name, p in m._parameters.items() if p is not None),
            tuple(m for m in modules if hasattr(m, "processor")),
            tuple(m for m in modules if hasattr(m, "gradient_checkpointing")),
            nn.ModuleList([m for m in modules if hasattr(m, "scale_layer")]),
            any(hasattr(m, "_diffusers_hook") for m in modules),
            any(is_compiled(m) for m in modules),
        )
