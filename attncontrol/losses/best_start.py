"""Best start: of several noises the one whose draft attends best, by EBAMA's loss (docs/methods/best_start.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, on_device
from attncontrol.losses.base import Context, Drafts, Evaluation, Judge, Look, Prepared, option
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


def _keep_better(best: Tensor, losses: Tensor, noises: Tensor, found: Tensor, rows: Sequence[int]) -> None:
    """Puts what has a lower loss in place of what these rows have, noise and loss."""
    for place, row in enumerate(rows):
        if found[place] < losses[row]:
            best[row], losses[row] = noises[place], found[place]


@register(
    "best-start",
    summary="Drafts several starting noises and goes on from the one that attends best.",
    paper="noise judged by its attention: Guo et al. (InitNO), CVPR 2024, arXiv 2404.04650; loss of EBAMA",
)
@dataclass(frozen=True, kw_only=True)
class BestStart(Ebama):
    """A choice of the noise that sampling starts from, before its first step.

    A draft goes from a noise to the last of `ahead` in as many denoiser calls, guided by the sum's other parts with
    `moves`, and is judged by EBAMA's loss of its attention there, divided by the number of objects, or by the loss of
    the other parts. The image goes on from the noise of the best draft. It works alone and beside every method; as a
    part of a sum its weight has no effect. With a `step_size` it guides, too, as EBAMA does.
    """

    step_size: float = option(0.0, "length of a step down the gradient with respect to the latents; 0 only chooses")
    relative_step: float | None = option(
        None,
        "length of a step as a fraction of the latents' norm, in place of step_size",
        at_least=0,
        at_most=100,
    )
    judge: Judge = option(
        "own", "whose loss tells which draft is best: 'own', EBAMA's, or 'sum', that of the sum's other parts"
    )
    screen: int = option(
        1, "every start is the best of so many noises by the loss of the noise itself", at_least=1, at_most=64
    )
    starts: int = option(4, "most noises that are drafted, the given one first", at_least=1, at_most=64)
    ahead: tuple[float, ...] = option(
        (0.134, 0.267), "where in sampling a draft goes, rising, one denoiser call each", at_least=0, at_most=0.9
    )
    moves: int = option(
        0,
        "moves of the sum's other parts at every place that a draft leaves; 0 drafts without them",
        at_most=20,
        at_least=0,
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
        if self._keeps_noise:
            return None
        best, losses = noise.clone(), torch.full((len(noise),), torch.inf)
        for number in range(self.starts):
            waiting = [row for row, loss in enumerate(losses.tolist()) if self.enough is None or loss > self.enough]
            if not waiting:
                break
            drafted = self._screened(noise[waiting], number, look, waiting)
            found = look(drafted, self.ahead, waiting, self.moves, self.judge)
            _keep_better(best, losses, drafted, found, waiting)
        return Prepared(best, losses)

    def _screened(self, noise: Tensor, number: int, look: Look, rows: Sequence[int]) -> Tensor:
        """The n-th start of every noise [n, ...] of these images: the best of `screen` orders."""
        orders = [reordered(noise, number * self.screen + k) for k in range(self.screen)]
        if self.screen == 1:
            return orders[0]
        best, losses = orders[0].clone(), torch.full((len(noise),), torch.inf)
        for order in orders:
            _keep_better(best, losses, order, look(order, (), rows, judge=self.judge), range(len(noise)))
        return best

    @property
    def drafts(self) -> tuple[Drafts, Drafts]:
        """Those of one good draft, and of all."""
        if self._keeps_noise:
            return Drafts(), Drafts()
        calls, looks = len(self.ahead), 1 + (self.screen if self.screen > 1 else 0)
        one = Drafts(0, calls, looks, calls * self.moves) if self.moves else Drafts(calls, 0, looks, 0)
        every = Drafts(*(self.starts * number for number in one))
        return every if self.enough is None else one, every

    @property
    def _keeps_noise(self) -> bool:
        """Whether there is nothing to choose and nothing to know."""
        return self.starts * self.screen == 1 and self.enough is None

    def spares(self, loss: float) -> bool:
        """Whether an image of this draft is left alone."""
        return self.spare and self.enough is not None and loss <= self.enough
