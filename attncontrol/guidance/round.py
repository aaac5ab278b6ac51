"""One round of guidance: what the parts say of the maps of one guided pass, and where their gradients lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, on_device
from attncontrol.guidance.targets import GuidedImage
from attncontrol.losses.base import Context, Evaluation, Method, Reading


@dataclass(frozen=True)
class Part:
    """One weighted method of a sum, and the layers it looks at."""

    method: Method
    weight: float
    layers: Sequence[Layer]


@dataclass
class Evaluated:
    """What one part says of some images of a round, by their place in it."""

    part: int
    places: list[int]
    evaluation: Evaluation
    is_read: bool = False


class Round:
    """The evaluations of one guided pass; each part is evaluated for all images that ask for it, and once for each.

    Args:
        parts: All parts, by their number.
        images: The images of the pass, in order of its rows.
        maps: What was captured.
        leaf: Their latents [images, ...], which the maps depend on.
        context: What a method may know, of an image and a part.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        images: Sequence[GuidedImage],
        maps: AttentionMaps,
        leaf: Tensor,
        context: Callable[[GuidedImage, int], Context],
    ) -> None:
        self.parts, self.images, self.maps, self.leaf, self.context = parts, images, maps, leaf, context
        self.evaluated: list[Evaluated] = []
        for image in images:
            image.readings = {}

    def evaluate(self) -> None:
        """Evaluates the parts that images ask for now and did not before."""
        for number, part in enumerate(self.parts):
            known = {place for entry in self.evaluated if entry.part == number for place in entry.places}
            places = [
                place
                for place, image in enumerate(self.images)
                if image.request and number in image.request.weights and place not in known
            ]
            if not places:
                continue
            maps = self.maps.of(part.layers, part.method.keys)
            if len(places) < len(self.images):
                maps = maps.rows(places)
            images = [self.images[place] for place in places]
            evaluation = part.method.evaluate(maps, [self.context(image, number) for image in images])
            self.evaluated.append(Evaluated(number, places, evaluation))
            for image, carry in zip(images, evaluation.carries or [None] * len(images), strict=True):
                image.next_carries[number] = carry

    def read(self, lengths: Tensor | None = None) -> list[float]:
        """Brings what new evaluations say from the device, and the lengths of moves [images], all at once."""
        new = [entry for entry in self.evaluated if not entry.is_read]
        tensors = [] if lengths is None else [lengths]
        for entry in new:
            loss, monitor = entry.evaluation.loss, entry.evaluation.monitor
            tensors += [loss, loss if monitor is None else monitor]
        numbers = torch.cat(tensors).tolist() if tensors else []
        first = 0 if lengths is None else len(lengths)
        for entry in new:
            entry.is_read, count = True, len(entry.places)
            losses, monitors = numbers[first:][:count], numbers[first + count :][:count]
            for place, loss, monitor in zip(entry.places, losses, monitors, strict=True):
                self._note(self.images[place], entry.part, Reading(loss, monitor))
            first += 2 * count
        return numbers[: 0 if lengths is None else len(lengths)]

    def _note(self, image: GuidedImage, part: int, reading: Reading) -> None:
        image.readings[part] = reading
        image.last_losses[part] = reading.loss
        image.step.losses.setdefault(self.parts[part].method.name, []).append(reading.loss)

    def has_objective(self, part: int) -> bool:
        """Whether refinement descends something else than the part's loss."""
        return any(entry.evaluation.objective is not None for entry in self.evaluated if entry.part == part)

    def moves(self) -> Tensor:
        """How far down each image's latents go: [images, ...], zero or not finite for those that are done.

        One backward pass for all parts together, and one of its own for every part with a relative step.
        """
        relative = [part for part, own in enumerate(self.parts) if own.method.relative_step is not None]
        groups = [[part for part in range(len(self.parts)) if part not in relative], *([part] for part in relative)]
        totals = [(group, total) for group in groups if (total := self._total(group)) is not None]
        moves = torch.zeros_like(self.leaf)
        for number, (group, total) in enumerate(totals, start=1):
            gradient = torch.autograd.grad(total, self.leaf, retain_graph=number < len(totals))[0]
            if group[0] in relative:
                gradient = self._with_relative_length(gradient, group[0])
            moves += gradient
        return moves

    def _total(self, group: Sequence[int]) -> Tensor | None:
        """The weighted sum of what some parts descend, over all images; None if it depends on no latents."""
        total = None
        for entry in self.evaluated:
            loss, objective = entry.evaluation.loss, entry.evaluation.objective
            weights = [self._weight(place, entry.part) for place in entry.places]
            if entry.part not in group or not any(weights):
                continue
            if objective is not None:
                requests = [self.images[place].request for place in entry.places]
                refining = torch.tensor([request is not None and request.refining for request in requests])
                loss = torch.where(on_device(refining, loss.device), objective, loss)
            if loss.requires_grad:
                term = (on_device(torch.tensor(weights, dtype=loss.dtype), loss.device) * loss).sum()
                total = term if total is None else total + term
        return total

    def _weight(self, place: int, part: int) -> float:
        request = self.images[place].request
        return request.weights.get(part, 0.0) if request else 0.0

    def _with_relative_length(self, gradient: Tensor, part: int) -> Tensor:
        """The gradient [images, ...], each row stretched to so many times the norm of its latents; zero stays zero."""
        norms = gradient.flatten(1).norm(dim=1)
        stretch = self.leaf.detach().flatten(1).norm(dim=1) / torch.where(norms == 0, 1, norms)
        weights = torch.tensor([self._weight(place, part) for place in range(len(self.images))], dtype=gradient.dtype)
        lengths = on_device(weights, gradient.device) * stretch
        return gradient * lengths.reshape(-1, *[1] * (gradient.ndim - 1))
