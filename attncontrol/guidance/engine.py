"""Guided sampling: before a denoiser call, the latents move down the gradient of the methods' losses.

Before the first step, parts may choose the noise (guidance/draft.py). In every step of the solver each image runs a
program. It makes requests: to look at what some parts say of its latents, or to move down their gradients, first for
each part's refinement, then once for all. A round is one guided pass over the images that wait for an answer: whoever
only looks is answered at once, the others move together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import index_tensor
from attncontrol.families.base import Call, Family
from attncontrol.guidance.cost import Memory, fits_in_memory
from attncontrol.guidance.draft import Draft
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.looking import MapRecorder, MapSettings, prompt_words
from attncontrol.guidance.record import ControlRecord, ImageRecord, StepRecord
from attncontrol.guidance.round import Part, Round
from attncontrol.guidance.targets import GuidedImage, Program, Request, Target
from attncontrol.losses.base import Context, MethodSum


@dataclass(frozen=True)
class Guidance:
    """What comes of guiding one denoiser call; moves are those of the model's input, after the scheduler's scaling.

    There the noisy latents have the same scale with every scheduler, and so a step size means the same.

    Args:
        move: Of the scheduler's sample, float32 [images, ...]; None if nothing moves.
        seen: Of what the denoiser is called with.
        output: What the denoiser gives there, where a guided pass was its call, else None.
    """

    move: Tensor | None = None
    seen: Tensor | None = None
    output: Any = None


class Engine:
    """Guides one run of a pipeline; what a method remembers of earlier steps lives here, per image.

    `targets` has one entry per prompt; a batch of several images per prompt repeats each of them in turn.
    """

    def __init__(
        self,
        family: Family,
        methods: MethodSum,
        targets: Sequence[Target],
        *,
        record_maps: bool | MapSettings = False,
        memory: Memory = "auto",
    ) -> None:
        self.family = family
        self.methods = [(weight, method) for weight, method in methods.parts if weight > 0]
        self.targets = list(targets)
        self.memory = memory
        self.recorder = self._recorder(record_maps) if record_maps else None
        self.images: list[GuidedImage] = []
        self.index = self.count = 0
        self.seen: Tensor | None = None  # a step's latents before its first move
        self.noise: tuple[float, float] | None = None

    @property
    def record(self) -> ControlRecord:
        """What has been done so far."""
        for image in self.images:
            for step in image.record.steps:  # left on the device until now: a look at it would wait for all work there
                step.timestep = float(step.timestep)
        return ControlRecord([image.record for image in self.images])

    @property
    def moves_after(self) -> bool:
        """Whether moves reach the scheduler only: all do, or those that could do not where others must not.

        Raises:
            ValueError: For parts of which some must and some must not.
        """
        moving = [method for _, method in self.methods if method.base_step > 0]
        after = [method for method in moving if method.moves_after]
        must = ", ".join(method.name for method in after if method.variant == "reference")
        if must and len(after) < len(moving):
            raise ValueError(f"{must} moves latents after the model's call, the other methods of the sum before it")
        return 0 < len(after) == len(moving)

    def guide(self, call: Call, index: int, count: int, noise: tuple[float, float] | None = None) -> Guidance:
        """Moves the latents at one denoiser call.

        Args:
            call: The denoiser's arguments by name.
            index: Of the iteration, from 0.
            count: The number of iterations.
            noise: The noise levels of `Context`.

        Returns:
            The moves, and the call's output where a guided pass was the call.
        """
        self.index, self.count, self.noise = index, count, noise
        with torch.inference_mode(False), torch.enable_grad():
            if not self.images:
                self._choose_layers(self.family.layers(self.family.grid(call)))
            guided = GuidedPass(self.family, call, self.family.running(self.layers), prompts=len(self.targets))
            latents = guided.start
            if not self.images:
                guided.check_copies()
                self._start_run(guided.images)
                latents = self._prepare(guided)
            seen = self.seen = latents
            for image in self.images:
                self._start_step(image, self.family.timestep(call))
            if any(image.request for image in self.images):
                guided.low_memory = self._saves_memory(guided)
                guided.layers = self.family.running(self._asked_layers())
            while waiting := [image for image in self.images if image.request]:
                latents = self._round(guided, latents, waiting)
            if self.recorder is not None:
                self.recorder.look(call, latents, self.images, index, count)
        moved = any(image.step.moved for image in self.images)
        prepared = seen - guided.start if seen is not guided.start else None
        move = prepared if not moved else latents - guided.start
        return Guidance(move, prepared if self.moves_after else move, guided.whole_output(seen))

    def _recorder(self, record_maps: bool | MapSettings) -> MapRecorder:
        """Looks at every word where settings ask for it or nothing is guided, else at the subjects alone."""
        settings = record_maps if isinstance(record_maps, MapSettings) else MapSettings()
        prompts = [target.structure.prompt for target in self.targets]
        of_words = settings is record_maps or not self.methods
        words = [prompt_words(self.family, p) if p is not None and of_words else [] for p in prompts]
        for prompt, own in zip(prompts, words, strict=True):
            if settings is record_maps and prompt is not None and not own:
                raise ValueError(
                    f"record_maps: no word of {prompt!r} is among the positions that the text encoder keeps"
                )
        return MapRecorder(self.family, settings, words)

    def _choose_layers(self, every: Sequence[Layer]) -> None:
        """Decides what each part looks at, and so what is captured."""
        self.parts = [Part(method, weight, method.select_layers(every)) for weight, method in self.methods]
        wanted = {layer.name for part in self.parts for layer in part.layers}
        self.layers = [layer for layer in every if layer.name in wanted]

    def _asked_layers(self) -> list[Layer]:
        """Those of the parts that look or move in this step, whatever the images say: a pass ends at the last."""
        asked = [part for number, part in enumerate(self.parts) if any(self._asks(i, number) for i in self.images)]
        wanted = {layer.name for part in asked for layer in part.layers}
        return [layer for layer in self.layers if layer.name in wanted]

    def _asks(self, image: GuidedImage, number: int) -> bool:
        method, now = self.parts[number].method, self._context(image, number)
        return method.plain_step_size(now) > 0 or next(method.refine(now), None) is not None

    def _saves_memory(self, guided: GuidedPass) -> bool:
        """Whether memory is bought with time; "auto" is decided once in a run, at the first guided step."""
        if self.memory == "auto":
            size, device = self.family.grid(guided.call), guided.start.device
            fits = fits_in_memory(self.family, size, guided.layers, guided.images, device)
            self.memory = "fast" if fits or not self.family.can_checkpoint(guided.layers) else "low"
        return self.memory == "low"

    def _start_run(self, images: int) -> None:
        self._check_maps()
        prompts = len(self.targets)
        if images % prompts:
            raise ValueError(f"{images} images cannot be shared evenly among {prompts} prompts")
        for row in range(images):
            target = self.targets[row // (images // prompts)]
            self.images.append(GuidedImage(row, target, ImageRecord(target.structure, layout=target.layout)))

    def _prepare(self, guided: GuidedPass) -> Tensor:
        """What sampling starts from, by the parts that choose it: [images, ...]."""
        noise = guided.start
        for number, part in enumerate(self.parts):
            images = [image for image in self.images if part.method.focus(self._context(image, number))]
            if not images:
                continue
            draft = Draft(guided, part, images, [self._context(image, number) for image in images])
            rows = index_tensor([image.row for image in images], noise.device)
            if (prepared := part.method.prepare(noise[rows], draft)) is not None:
                noise = noise.index_copy(0, rows, prepared.noise)
                for image, loss in zip(images, prepared.losses.tolist(), strict=True):
                    image.record.spared |= part.method.spares(loss)
        return noise

    def _check_maps(self) -> None:
        """Warns where a method's maps are too coarse for the layout."""
        for target in self.targets:
            now = Context(target.structure, 0, 1, layout=target.layout, drop_padding=self.family.drop_padding)
            for part in self.parts:
                part.method.check_maps(now, part.layers)

    def _start_step(self, image: GuidedImage, timestep: Any) -> None:
        image.record.steps.append(StepRecord(self.index, timestep))
        image.without_effect = set()
        image.carries.update(image.next_carries)
        image.program = self._program(image)
        image.request = None if image.record.spared else next(image.program, None)

    def _program(self, image: GuidedImage) -> Program:
        """One image's requests in this step: each part's refinement in turn, then one plain update of all parts."""
        parts = {i: part for i, part in enumerate(self.parts) if part.method.focus(self._context(image, i))}
        for number, part in parts.items():
            refinement = part.method.refine(self._context(image, number))
            step_size = next(refinement, None)
            while step_size is not None:
                readings = yield Request({number: part.weight * step_size}, refining=True)
                if readings is None:
                    break  # the same latents would give the same answer again
                try:
                    step_size = refinement.send(readings[number])
                except StopIteration:
                    break
        weights = {i: part.weight * part.method.plain_step_size(self._context(image, i)) for i, part in parts.items()}
        weights = {i: weight for i, weight in weights.items() if weight > 0 and i not in image.without_effect}
        if weights:
            yield Request(weights)

    def _context(self, image: GuidedImage, part: int) -> Context:
        return Context(
            prompt=image.target.structure,
            index=self.index,
            count=self.count,
            layout=image.target.layout,
            drop_padding=self.family.drop_padding,
            text=self.family.text,
            noise=self.noise,
            refinements=image.step.refinements if image.record.steps else 0,
            carry=image.carries.get(part),
            last_loss=image.last_losses.get(part),
        )

    def _round(self, guided: GuidedPass, latents: Tensor, waiting: Sequence[GuidedImage]) -> Tensor:
        """One guided forward for all waiting images and one backward for those that move; returns the new latents.

        Numbers come from the device once at the end, and once before if an image only looks.
        """
        rows = [image.row for image in waiting]
        whole = self.moves_after and latents is self.seen and guided.is_call_of(rows)
        with guided.run(latents, rows, whole) as (leaf, maps):
            round_ = Round(self.parts, waiting, maps, leaf, self._context)
            asking = list(waiting)
            while asking:
                round_.evaluate()
                looking = [image for image in asking if image.request and image.request.only_looks]
                if looking:
                    round_.read()
                for image in looking:
                    image.answer(image.readings)
                asking = [image for image in looking if image.request]
            moves = round_.moves()
        lengths = moves.flatten(1).norm(dim=1)
        finite = lengths.isfinite().reshape(-1, *[1] * (moves.ndim - 1))
        moved = leaf.detach() - torch.where(finite, moves, 0)
        latents = latents.index_copy(0, index_tensor(rows, latents.device), moved)
        for image, length in zip(waiting, round_.read(lengths), strict=True):
            if image.request:
                self._settle(image, round_, length)
        return latents

    def _settle(self, image: GuidedImage, round_: Round, length: float) -> None:
        """Notes the move that an image has made and answers it; a move of no length was none."""
        request, step = image.request, image.step
        moved = math.isfinite(length) and length > 0
        if not math.isfinite(length):
            self._warn_not_finite(image)
        step.moved |= moved
        step.refinements += moved and request.refining
        descended = {part for part in request.weights if not (request.refining and round_.has_objective(part))}
        image.without_effect = set() if moved else image.without_effect | descended
        image.answer({part: image.readings[part] for part in request.weights} if moved else None)

    def _warn_not_finite(self, image: GuidedImage) -> None:
        warnings.warn(
            f"the gradient of image {image.row} is not finite at step {self.index} of {self.count}: this update of "
            "its latents is skipped. In float16 a smaller step size or bfloat16 may help",
            RuntimeWarning,
            stacklevel=2,
        )
