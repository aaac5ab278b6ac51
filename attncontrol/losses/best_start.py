"""Best start: of several noises the one whose draft attends best, by EBAMA's loss (docs/methods/best_start.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, on_device
from attncontrol.losses.base import Context, Evaluation, Look, Prepared, option
from attncontrol.losses.ebama import Ebama
from attncontrol.losses.registry import register
from attncontrol.losses.words import word_groups


def reordered(noise: Tensor, number: int) -> Tensor:
    """The entries of every noise [images, ...] in the order of this number; 0 keeps them.

    Independent normal numbers in another order are as good a draw, and no random generator is asked for it.
    """
    if number == 0:
        return noise
    flat = noise.flatten(1)
    order = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(number))
    return flat[:, order.to(noise.device)].reshape(noise.shape)


@register(
    "best-start",
    summary="Drafts several starting noises and goes on from the one that attends best.",
    paper="noise judged by its attention: Guo et al. (InitNO), CVPR 2024, arXiv 2404.04650; loss of EBAMA",
)
@dataclass(frozen=True, kw_only=True)
class BestStart(Ebama):
    """A choice of the noise that sampling starts from, before its first step.

    A draft goes from a noise to the last of `ahead` in as many denoiser calls, and is judged by EBAMA's loss of its
    attention there, divided by the number of objects. The image goes on from the noise of the best draft. It works
    alone and beside every method; as a part of a sum its weight has no effect. With a `step_size` it guides, too, as
    EBAMA does.
    """

    step_size: float = option(0.0, "length of a step down the gradient with respect to the latents; 0 only chooses")
    relative_step: float | None = option(
        None,
        "length of a step as a fraction of the latents' norm, in place of step_size",
        at_least=0,
        at_most=100,
    )
    starts: int = option(4, "most noises that are drafted, the given one first", at_least=1, at_most=64)
    ahead: tuple[float, ...] = option(
        (0.134, 0.267), "where in sampling a draft goes, rising, one denoiser call each", at_least=0, at_most=0.9
    )
    enough: float | None = option(
        None,
        "a draft of this loss per object or less is taken at once; by default all starts are drafted",
        at_least=-100,
        at_most=100,
    )
    spare: bool = option(False, "with enough: an image whose draft reaches it is guided by no part of the sum")

    def __post_init__(self) -> None:
        """As of every method; the draft must go forward."""
        super().__post_init__()
        if list(self.ahead) != sorted(set(self.ahead)):
            raise ValueError(f"{self.name}: ahead must rise, got {self.ahead!r}")

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """EBAMA's loss divided by the number of objects; 0 without any."""
        loss = super().evaluate(maps, contexts).loss
        objects = torch.tensor([max(1, len(word_groups(now.prompt))) for now in contexts], dtype=loss.dtype)
        return Evaluation(loss / on_device(objects, loss.device))

    def prepare(self, noise: Tensor, look: Look) -> Prepared | None:
        """The best of the drafted noises, and its loss."""
        if self.starts == 1 and self.enough is None:
            return None
        best, losses = noise.clone(), torch.full((len(noise),), torch.inf)
        for number in range(self.starts):
            waiting = [row for row, loss in enumerate(losses.tolist()) if self.enough is None or loss > self.enough]
            if not waiting:
                break
            drafted = reordered(noise[waiting], number)
            found = look(drafted, self.ahead, waiting)
            for place, row in enumerate(waiting):
                if found[place] < losses[row]:
                    best[row], losses[row] = drafted[place], found[place]
        return Prepared(best, losses)

    @property
    def draft_calls(self) -> tuple[int, int]:
        """Those of one good draft, and of all; a look at attention counts as a call."""
        if self.starts == 1 and self.enough is None:
            return 0, 0
        calls = len(self.ahead) + 1
        return calls * (self.starts if self.enough is None else 1), calls * self.starts

    def spares(self, loss: float) -> bool:
        """Whether an image of this draft is left alone."""
        return self.spare and self.enough is not None and loss <= self.enough
