"""Guided sampling: before a denoiser call, the latents move down the gradient of the methods' losses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer, choose_size
from attncontrol.attention.maps import AttentionMaps, token_means
from attncontrol.families.base import Call, Family
from attncontrol.guidance.cost import Memory, fits_in_memory
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.record import ControlRecord, ImageRecord, StepRecord
from attncontrol.layout import Layout
from attncontrol.losses.base import Context, Evaluation, Method, MethodSum, Reading
from attncontrol.prompt.structure import PromptStructure


@dataclass(frozen=True)
class Subject:
    """What is asked of the images of one prompt: its parsed structure and, for layout methods, where things go."""

    structure: PromptStructure
    layout: Layout | None = None


@dataclass(frozen=True)
class Request:
    """An image asks to evaluate these parts (by number) and to move by their weighted gradients (all 0: only look)."""

    weights: dict[int, float]
    refining: bool = False

    @property
    def only_looks(self) -> bool:
        return not any(self.weights.values())


Program = Generator[Request, dict[int, Reading], None]  # answered by what the evaluations say, by part


@dataclass
class ImageState:
    """One image of the running batch.

    `evaluations`, what was read of them, whether a move ended there (`stuck`) and the parts `without_effect`, whose
    gradient is of no use, belong to its present latents, `maps` to the running forward.
    """

    row: int
    subject: Subject
    record: ImageRecord
    program: Program | None = None
    request: Request | None = None
    maps: AttentionMaps | None = None
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    readings: dict[int, Reading] = field(default_factory=dict)
    stuck: bool = False
    without_effect: set[int] = field(default_factory=set)
    carries: dict[int, Any] = field(default_factory=dict)
    next_carries: dict[int, Any] = field(default_factory=dict)
    last_losses: dict[int, float] = field(default_factory=dict)

    @property
    def step(self) -> StepRecord:
        return self.record.steps[-1]


@dataclass(frozen=True)
class Move:
    """A move that is taken for one that changed the latents until its norm is read.

    `parts` are those without effect if it did not.
    """

    image: ImageState
    step: StepRecord
    norm: Tensor
    refining: bool
    parts: set[int]


class Engine:
    """Guides one run of a pipeline; what a method remembers of earlier steps lives here, per image.

    `subjects` has one entry per prompt; a batch of several images per prompt repeats each of them in turn.
    """

    def __init__(
        self,
        family: Family,
        methods: MethodSum,
        subjects: Sequence[Subject],
        *,
        record_maps: bool = False,
        memory: Memory = "auto",
    ) -> None:
        self.family = family
        self.parts: list[tuple[float, Method]] = [(weight, method) for weight, method in methods.parts if weight > 0]
        self.subjects = list(subjects)
        self.record_maps, self.memory = record_maps, memory
        self.images: list[ImageState] = []
        self.unconfirmed: list[Move] = []
        self.index = self.count = 0
        self.noise: tuple[float, float] | None = None
        self.layers: list[list[Layer]] = []  # what each part looks at

    @property
    def record(self) -> ControlRecord:
        """What has been done so far."""
        self.confirm_moves()
        for image in self.images:
            for step in image.record.steps:  # left on the device until now: a look at it would wait for all work there
                step.timestep = float(step.timestep)
        return ControlRecord([image.record for image in self.images])

    @property
    def moves_after(self) -> bool:
        """Whether moves reach the scheduler only. Raises ValueError for parts that do not agree on it."""
        ways = {method.moves_after for _, method in self.parts}
        if len(ways) > 1:
            names = ", ".join(method.name for _, method in self.parts if method.moves_after)
            raise ValueError(f"{names} moves latents after the model's call, the other methods of the sum before it")
        return True in ways

    def guide(self, call: Call, index: int, count: int, noise: tuple[float, float] | None = None) -> Tensor | None:
        """The move of the latents before one denoiser call: float32 shaped as the sample, None if none.

        `call` holds the denoiser's arguments by name, `index` counts the iterations from 0 and `count` is their
        number, `noise` the noise levels of `Context`. The move is one of the model's input, after the scheduler's
        scaling: there the noisy latents have the same scale with every scheduler, and so a step size means the same.
        """
        self.index, self.count, self.noise = index, count, noise
        with torch.inference_mode(False), torch.enable_grad():
            every = self.family.layers(self.family.grid(call))
            pass_ = GuidedPass(self.family, call, self._choose_layers(every), prompts=len(self.subjects))
            if not self.images:
                pass_.check_copies()
                self._start_run(pass_.images)
            for image in self.images:
                self._start_step(image, self.family.timestep(call))
            if any(image.request for image in self.images):
                pass_.low_memory = self._saves_memory(pass_)
            latents = pass_.start
            while waiting := [image for image in self.images if image.request]:
                latents = self._round(pass_, latents, waiting)
            if self.record_maps:
                self._record_maps(call, every, latents)
        moved = self.unconfirmed or any(image.step.moved for image in self.images)
        return latents - pass_.start if moved else None

    def _choose_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers that any part is made of, out of all there are."""
        self.layers = [method.select_layers(layers) for _, method in self.parts]
        wanted = {layer.name for part in self.layers for layer in part}
        return [layer for layer in layers if layer.name in wanted]

    def _saves_memory(self, pass_: GuidedPass) -> bool:
        """Whether memory is bought with time; "auto" is decided once in a run, at the first guided step."""
        if self.memory == "auto":
            size, device = self.family.grid(pass_.call), pass_.start.device
            fits = fits_in_memory(self.family, size, pass_.layers, pass_.images, device)
            self.memory = "fast" if fits else "low"
        return self.memory == "low"

    def _start_run(self, images: int) -> None:
        self._check_maps()
        prompts = len(self.subjects)
        if images % prompts:
            raise ValueError(f"{images} images cannot be shared evenly among {prompts} prompts")
        for row in range(images):
            subject = self.subjects[row // (images // prompts)]
            self.images.append(ImageState(row, subject, ImageRecord(subject.structure, layout=subject.layout)))

    def _check_maps(self) -> None:
        """Lets every method warn of what its maps are too coarse for."""
        for subject in self.subjects:
            now = Context(subject.structure, 0, 1, layout=subject.layout, drop_padding=self.family.drop_padding)
            for (_, method), layers in zip(self.parts, self.layers, strict=True):
                method.check_maps(now, layers)

    def _start_step(self, image: ImageState, timestep: Any) -> None:
        image.record.steps.append(StepRecord(self.index, timestep))
        image.evaluations, image.readings = {}, {}
        image.stuck, image.without_effect = False, set()
        image.carries.update(image.next_carries)
        image.program = self._program(image)
        image.request = next(image.program, None) if image.subject.structure.entities else None

    def _program(self, image: ImageState) -> Program:
        """One image's requests in this step: each part's refinement in turn, then one plain update of all parts."""
        for part, (weight, method) in enumerate(self.parts):
            refinement = method.refine(self._context(image, part))
            step_size = next(refinement, None)
            while step_size is not None:
                readings = yield Request({part: weight * step_size}, refining=True)
                if image.stuck:
                    break  # the same latents would give the same answer again
                try:
                    step_size = refinement.send(readings[part])
                except StopIteration:
                    break
        weights = {
            part: weight * method.plain_step_size(self._context(image, part))
            for part, (weight, method) in enumerate(self.parts)
        }
        weights = {part: w for part, w in weights.items() if w > 0 and part not in image.without_effect}
        if weights:
            yield Request(weights)

    def _context(self, image: ImageState, part: int) -> Context:
        return Context(
            prompt=image.subject.structure,
            index=self.index,
            count=self.count,
            layout=image.subject.layout,
            drop_padding=self.family.drop_padding,
            text=self.family.text,
            noise=self.noise,
            refinements=image.step.refinements,
            carry=image.carries.get(part),
            last_loss=image.last_losses.get(part),
        )

    def _round(self, pass_: GuidedPass, latents: Tensor, waiting: Sequence[ImageState]) -> Tensor:
        """One guided forward for all waiting images and one backward for those that move; returns the new latents.

        Numbers come from the device once: after the backward pass, or before it if an image looks first. Whether a
        move was one is then read with the next evaluation.
        """
        with pass_.run(latents, [image.row for image in waiting]) as (leaf, maps):
            for image, image_maps in zip(waiting, maps, strict=True):
                image.maps = image_maps
                self._evaluate(image)
            while looking := [image for image in waiting if image.request and image.request.only_looks]:
                self._read()
                for image in looking:
                    self._answer(image)
                    self._evaluate(image)
            moves = self._moves(waiting, leaf)
        latents = latents.clone()
        for image, move in zip(waiting, moves, strict=True):
            image.maps = None
            if image.request:
                norm = move.norm()
                latents[image.row] -= torch.where(norm.isfinite(), move, 0)
                self._count_move(image, norm)
        if self._unread():
            self._read()
        for image in waiting:
            if image.request:
                self._answer(image)
        return latents

    def _evaluate(self, image: ImageState) -> None:
        """Evaluates the requested parts, each once at the same latents."""
        for part in image.request.weights if image.request else ():
            if part in image.evaluations:
                continue
            method = self.parts[part][1]
            maps = image.maps.of(self.layers[part], method.keys)
            evaluation = method.evaluate(maps, self._context(image, part))
            image.evaluations[part] = evaluation
            image.next_carries[part] = evaluation.carry

    def _unread(self) -> list[tuple[ImageState, int]]:
        """The evaluations, by image and part, that nobody has looked at yet."""
        return [(image, part) for image in self.images for part in image.evaluations if part not in image.readings]

    def _read(self) -> None:
        """Brings what new evaluations say and how long the last moves were from the device, all at once."""
        new, moves, tensors = self._unread(), self.unconfirmed, []
        for image, part in new:
            evaluation = image.evaluations[part]
            monitor = evaluation.loss if evaluation.monitor is None else evaluation.monitor
            tensors += [evaluation.loss.detach(), monitor.detach()]
        tensors += [move.norm for move in moves]
        numbers = torch.stack(tensors).tolist() if tensors else []
        for i, (image, part) in enumerate(new):
            image.readings[part] = reading = Reading(*numbers[2 * i :][:2])
            image.step.losses.setdefault(self.parts[part][1].name, []).append(reading.loss)
            image.last_losses[part] = reading.loss
        self.unconfirmed = []
        for move, norm in zip(moves, numbers[2 * len(new) :], strict=True):
            self._confirm(move, norm)

    def _count_move(self, image: ImageState, norm: Tensor) -> None:
        """Takes the requested move for one that changed the latents, until its norm is read."""
        step, refining = image.step, image.request.refining
        parts = {part for part in image.request.weights if not self._has_objective(image, part)}
        self.unconfirmed.append(Move(image, step, norm, refining, image.without_effect | parts))
        image.stuck, image.without_effect = False, set()
        step.refinements += refining

    def _confirm(self, move: Move, norm: float) -> None:
        moved = math.isfinite(norm) and norm > 0
        if not math.isfinite(norm):
            self._warn_not_finite(move)
        move.step.moved |= moved
        move.step.refinements -= move.refining and not moved
        if move.step is move.image.step:
            move.image.stuck, move.image.without_effect = not moved, set() if moved else move.parts

    def confirm_moves(self) -> None:
        """Reads whether the last moves changed the latents, at the end of a run."""
        self._read()

    def _answer(self, image: ImageState) -> None:
        """Hands what was read of the requested parts to the image's program and takes its next request."""
        readings = {part: image.readings[part] for part in image.request.weights}
        if not image.request.only_looks:
            image.evaluations, image.readings = {}, {}  # the graph is gone, and the latents mostly are others now
        try:
            image.request = image.program.send(readings)
        except StopIteration:
            image.request = None

    def _moves(self, waiting: Sequence[ImageState], leaf: Tensor) -> Tensor:
        """How far down each image's latents go: [images, ...], zero for those that are done.

        One backward pass for all parts together, and one of its own for every part with a relative step.
        """
        relative = [part for part, (_, method) in enumerate(self.parts) if method.relative_step is not None]
        groups = [[part for part in range(len(self.parts)) if part not in relative], *([part] for part in relative)]
        totals = [(group, total) for group in groups if (total := self._total(waiting, group)) is not None]
        moves = torch.zeros_like(leaf)
        for number, (group, total) in enumerate(totals, start=1):
            gradient = torch.autograd.grad(total, leaf, retain_graph=number < len(totals))[0]
            if group[0] in relative:
                weights = [image.request.weights.get(group[0], 0.0) if image.request else 0.0 for image in waiting]
                gradient = _with_relative_length(gradient, leaf.detach(), weights)
            moves += gradient
        return moves

    def _total(self, waiting: Sequence[ImageState], group: Sequence[int]) -> Tensor | None:
        """The weighted sum of what some parts descend, over all images; None if it depends on no latents."""
        terms = []
        for image in waiting:
            for part, weight in image.request.weights.items() if image.request else ():
                evaluation = image.evaluations[part]
                objective = evaluation.objective if self._has_objective(image, part) else evaluation.loss
                if part in group and objective.requires_grad:
                    terms.append(weight * objective)
        return torch.stack(terms).sum() if terms else None

    def _has_objective(self, image: ImageState, part: int) -> bool:
        """Whether this request descends something else than the loss."""
        return image.request.refining and image.evaluations[part].objective is not None

    def _record_maps(self, call: Call, layers: Sequence[Layer], latents: Tensor) -> None:
        """Adds every subject's map at the latents that go into this step, in a pass of its own: looking is no part."""
        default = [layer for layer in layers if layer.by_default and layer.is_cross]
        size = choose_size(default)
        chosen = [layer for layer in default if layer.size == size]
        pass_ = GuidedPass(self.family, call, chosen, prompts=len(self.subjects))
        with torch.no_grad(), pass_.run(latents, range(pass_.images)) as (_, maps):
            for image, image_maps in zip(self.images, maps, strict=True):
                attention = image_maps.mean_cross(size).cpu()
                words = [list(entity.noun.token_indices) for entity in image.subject.structure.entities]
                if not words:
                    continue
                step = token_means(attention, words, self.family.text)[None]
                image.record.maps = step if image.record.maps is None else torch.cat([image.record.maps, step])

    def _warn_not_finite(self, move: Move) -> None:
        warnings.warn(
            f"the gradient of image {move.image.row} is not finite at step {move.step.index} of {self.count}: this "
            "update of its latents is skipped. In float16 a smaller step size or bfloat16 may help",
            RuntimeWarning,
            stacklevel=2,
        )


def _with_relative_length(gradient: Tensor, latents: Tensor, lengths: Sequence[float]) -> Tensor:
    """Each row [rows, ...] of the gradient, stretched to so many times the norm of its latents; zero stays zero."""
    norms = gradient.flatten(1).norm(dim=1)
    stretch = latents.flatten(1).norm(dim=1) / torch.where(norms == 0, 1, norms)
    return torch.stack(
        [row * (length * factor) for row, length, factor in zip(gradient, lengths, stretch, strict=True)]
    )
