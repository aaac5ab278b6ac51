"""What a method is: a frozen dataclass of hyperparameters with a loss, a step size and a refinement rule.

A method's file defines a pure loss on tensors and one dataclass that derives from `Method` and registers itself.
Python, the command line, prompt files, the demo, the documentation and the generic tests all read that dataclass.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

from attncontrol.arguments import is_finite, short
from attncontrol.attention.layers import Layer, Size, choose_size, match_layers, split_patterns
from attncontrol.attention.maps import AttentionMaps
from attncontrol.layout import Layout
from attncontrol.losses.bounds import choices as choices_of
from attncontrol.losses.bounds import is_in, numbers
from attncontrol.prompt.structure import PromptStructure


def option(default: Any, help: str, at_least: float | None = None, at_most: float | None = None) -> Any:
    """Declares a hyperparameter of a method.

    Args:
        default: Its value by default; a list or a dict is copied for every method.
        help: What it means, in one line.
        at_least: The least number it may be, or hold.
        at_most: The greatest one.
    """
    metadata = {"help": help, "at_least": at_least, "at_most": at_most}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Context:
    """All that a method may know of one image at one sampling step, besides the maps.

    Args:
        prompt: Its words, with their token positions.
        index: The solver's step, from 0.
        count: The number of steps (51 for PNDM with 50 steps).
        layout: Where its entities belong, if that was said.
        drop_padding: Whether the text encoder's end-of-text and padding positions are better left out of a softmax
            over tokens (2.x text encoders; docs/methods/attend_and_excite.md, section 8).
        text: The positions of every text encoder without its start and its last one.
        noise: The noise level of this step and of the next, 1 to 0, of flow matching; None for other models.
        refinements: How many moves were already made in this step.
        carry: What the method's last evaluation of the previous guided step left; None at first.
        last_loss: The loss of its last evaluation; None at first.
    """

    prompt: PromptStructure
    index: int
    count: int
    layout: Layout | None = None
    drop_padding: bool = False
    text: tuple[slice, ...] = (slice(1, -1),)
    noise: tuple[float, float] | None = None
    refinements: int = 0
    carry: Any = None
    last_loss: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a method says of every image of a batch. Its numbers stay tensors: reading one waits for the device.

    Args:
        loss: float32 [images], each image's to descend.
        objective: [images], in place of the loss during refinement where a method descends something else there.
        monitor: [images], what the refinement rule reads; None for the loss.
        carries: What is handed to each image's next step.
    """

    loss: Tensor
    objective: Tensor | None = None
    monitor: Tensor | None = None
    carries: Sequence[Any] | None = None


@dataclass(frozen=True)
class Reading:
    """What an evaluation says of one image, as numbers; `monitor` is the loss where there is none."""

    loss: float
    monitor: float


Refinement = Generator[float, Reading, None]


class Look(Protocol):
    """What a method can ask before the first step: how good a draft from a noise is."""

    def __call__(self, starts: Tensor, ahead: Sequence[float], rows: Sequence[int]) -> Tensor:
        """The method's loss of a draft from every start [n, ...] of these rows: float32 [n] on the CPU.

        `ahead` are the fractions of sampling that the draft goes to, a denoiser call each; maps are those at the last.
        """


class Prepared(NamedTuple):
    """The noise to start from, [images, ...], and the loss of its draft, [images] on the CPU."""

    noise: Tensor
    losses: Tensor


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Base of all methods. Subclasses add their hyperparameters and implement `evaluate` and perhaps `focus`.

    A method's loss can be had without a pipeline, from maps and token positions alone:

        attention = torch.rand(1, 1, 256, 77).softmax(-1).requires_grad_()  # [images, heads, pixels, text positions]
        red_cat = Entity(Word("cat", token_indices=(3,)), (Word("red", token_indices=(2,)),))
        blue_frog = Entity(Word("frog", token_indices=(7,)), (Word("blue", token_indices=(6,)),))
        prompt = PromptStructure(None, (red_cat, blue_frog), "subjects", encoders=(tuple(range(1, 8)),))
        layer = Layer("up_blocks.1.attn2", "up", is_cross=True, size=(16, 16))
        maps = AttentionMaps((LayerMap(layer, attention),))
        SynGen(variant="reference").evaluate(maps, [Context(prompt, index=0, count=50)]).loss.sum().backward()

    `Entity`, `Word` and `PromptStructure` are in `attncontrol.prompt`, `Layer` in `attncontrol.attention.layers`,
    `LayerMap` and `AttentionMaps` in `attncontrol.attention.maps`, the others in `attncontrol.losses`. The pure
    functions on tensors behind it are in the method's module.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    needs_layout: ClassVar[bool] = False

    variant: Literal["default", "reference"] = option(
        "default", "'reference' is the published code with its quirks, 'default' has its defects repaired"
    )
    start: float = option(0.0, "guide from this fraction of sampling on")
    stop: float = option(0.5, "guide up to this fraction of sampling")
    step_size: float = option(20.0, "length of a step down the gradient with respect to the latents")
    relative_step: float | None = option(
        None,
        "length of a step as a fraction of the latents' norm, in place of step_size: means the same for every model",
        at_least=0,
        at_most=100,
    )
    shared_pass: bool = option(
        False, "where all that move have it, moves follow the model's call, and the guided pass is that call"
    )
    resolution: int | tuple[int, int] | None = option(
        None,
        "(height, width) of the cross-attention maps, or one side of square ones; by default the coarsest maps "
        "whose shorter side is at least 16",
    )
    keys: Literal["joint", "text"] = option(
        "joint",
        "in joint attention, maps of a softmax over all keys or over the text's alone; no difference elsewhere",
    )
    layers: str | None = option(
        None,
        "which attention layers to look at: down, mid, up, or parts of them by block, attention and transformer "
        "block, as in 'down.2, mid'; by default all, for Stable Diffusion XL the down blocks",
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a window, a choice or a number that makes no sense."""
        for setting in dataclasses.fields(self):
            self._check_setting(setting)
        if not (is_finite(self.start) and is_finite(self.stop) and 0 <= self.start <= self.stop <= 1):
            raise ValueError(
                f"{self.name}: need 0 <= start <= stop <= 1, got {short(self.start)} and {short(self.stop)}"
            )
        step_size = self.base_step if self.step_size is None else self.step_size
        if not (is_finite(step_size) and step_size >= 0):
            raise ValueError(f"{self.name}: step_size must be finite and not negative, got {short(self.step_size)}")
        if self.layers is not None:
            split_patterns(self.layers)

    def _check_setting(self, setting: dataclasses.Field) -> None:
        value, choices = getattr(self, setting.name), choices_of(type(self)).get(setting.name)
        if choices and value not in choices:
            listed = ", ".join(map(repr, choices))
            raise ValueError(f"{self.name}: {setting.name} must be one of {listed}, not {value!r}")
        least, most = setting.metadata.get("at_least"), setting.metadata.get("at_most")
        bounds = [f"at {word} {bound:g}" for word, bound in (("least", least), ("most", most)) if bound is not None]
        if bounds and not all(is_in(x, least, most) for x in numbers(value)):
            text = " and ".join(bounds)
            raise ValueError(f"{self.name}: {setting.name} must be finite and {text}, not {short(value)}")

    @abstractmethod
    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The loss of every image of a batch at its current latents; no image's may depend on another image.

        Args:
            maps: What the layers of `select_layers` attend to.
            contexts: What is known of each image.
        """

    def attention(self, maps: AttentionMaps) -> Tensor:
        """The mean cross-attention of the layers this method works on: [images, height, width, text positions]."""
        return maps.mean_cross(self.map_size([m.layer for m in maps.layers]))

    def check(self, context: Context) -> None:
        """Raise ValueError if this prompt, its subjects or its layout cannot be used; called before sampling."""
        if self.needs_layout and context.layout is None:
            raise ValueError(
                f"{self.name} needs a layout: pass layout={{phrase: [x0, y0, x1, y1]}}, coordinates in 0..1, or 'auto'"
            )

    def check_maps(self, context: Context, layers: Sequence[Layer]) -> None:
        """Warn of what the maps of the chosen layers cannot show; called once per prompt, before the first step."""
        return

    def focus(self, context: Context) -> list[list[int]]:
        """The token positions the loss works on, one group per thing; here every noun's.

        An image without any is not guided by the method.
        """
        words = (entity.noun.token_indices for entity in context.prompt.entities)
        return [list(word) for word in words if word]

    def plain_step_size(self, context: Context) -> float:
        """Step size of the one plain update of this iteration; 0 outside the window."""
        return self.base_step if self.guides(context) else 0.0

    @property
    def moves_after(self) -> bool:
        """Whether a move reaches the scheduler only, after the model has seen latents that are not moved."""
        return self.shared_pass and self.variant != "reference"

    @property
    def base_step(self) -> float:
        """The factor of all steps: on the gradient, or with `relative_step` on its direction and the latents' norm."""
        return self.step_size if self.relative_step is None else self.relative_step

    def refine(self, context: Context) -> Refinement:
        """The iterative refinement of one sampling step, before its plain update; none by default.

        Args:
            context: What is known of the image before the first move of the step.

        Yields:
            The multiple of the gradient by which the latents move next, 0 only to look. The value of the `yield` is
            what the evaluation before the move says.
        """
        yield from ()

    def prepare(self, noise: Tensor, look: Look) -> Prepared | None:
        """Chooses what sampling starts from, before the first step; None, the default, leaves it as it is.

        No image's choice may depend on another image.

        Args:
            noise: float32 [images, ...], what the pipeline drew, in the scale of the model's input.
            look: Drafts from a noise, and judges the draft by `evaluate`.
        """
        return None

    @property
    def draft_calls(self) -> tuple[int, int]:
        """The fewest and the most denoiser calls of `prepare`, for what it costs."""
        return 0, 0

    def spares(self, loss: float) -> bool:
        """Whether an image of this loss in `prepare` is left alone: no part of the sum guides it."""
        return False

    @property
    def pictures(self) -> tuple[int, int]:
        """The fewest and the most that are drawn of an image; above one the method judges them by its last loss."""
        return 1, 1

    def accepts(self, loss: float) -> bool:
        """Whether a picture of this loss is kept without another try."""
        return True

    def guides(self, context: Context) -> bool:
        """Whether the iteration lies in the window [start, stop) of sampling (at least one does)."""
        first = int(self.start * context.count + 1e-6)
        last = int(self.stop * context.count + 1e-6)
        if self.stop > self.start:
            last = max(last, first + 1)
        return first <= context.index < last

    def softmax_spans(self, context: Context, normalize_eot: bool | None) -> list[slice]:
        """The positions of every text encoder that a softmax over tokens runs over.

        Args:
            context: Of the image.
            normalize_eot: Whether to take the words of the prompt alone, and not all that lies between the encoder's
                first and last position. None decides by the text encoder in the default variant, and means False in
                the reference variant.

        Returns:
            One slice of text positions for every text encoder.
        """
        if normalize_eot is None:
            normalize_eot = context.drop_padding and self.variant == "default"
        if normalize_eot:
            return [slice(words[0], words[-1] + 1) for words in context.prompt.encoders if words]
        return list(context.text)

    def select_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers to capture, out of all there are.

        Raises:
            ValueError: If no layer fits `layers` or `resolution`.
        """
        layers = self.allowed_layers(layers)
        size = self.map_size(layers)
        return [layer for layer in layers if layer.is_cross and layer.size == size]

    def allowed_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """Those that the setting `layers` names, or the model's default ones."""
        if self.layers is None:
            return [layer for layer in layers if layer.by_default]
        with self._named_errors():
            return match_layers(layers, self.layers)

    def map_size(self, layers: Sequence[Layer]) -> Size:
        """The (height, width) of the maps this method works on.

        Raises:
            ValueError: If none are of `resolution`.
        """
        with self._named_errors():
            return choose_size(layers, self.resolution)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Says of which method a ValueError speaks: several may be added up."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def settings(self) -> dict[str, Any]:
        """All hyperparameters by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __mul__(self, weight: float) -> MethodSum:
        return MethodSum(((weight, self),))

    __rmul__ = __mul__

    def __add__(self, other: Method | MethodSum) -> MethodSum:
        return MethodSum(((1.0, self),)) + other


@dataclass(frozen=True)
class MethodSum:
    """Methods added up, each with a weight: `AttendAndExcite() + 0.5 * SynGen()`.

    Args:
        parts: Pairs of a weight, 0 or more, and a method; none for plain sampling.
    """

    parts: tuple[tuple[float, Method], ...] = ()

    def __post_init__(self) -> None:
        for weight, method in self.parts:
            if not isinstance(weight, int | float) or not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {method.name} must be finite and not negative, got {weight!r}")

    @property
    def judge(self) -> Method | None:
        """The part that judges finished pictures, if there is one. Raises ValueError for several."""
        judges = [method for weight, method in self.parts if weight > 0 and method.pictures[1] > 1]
        if len(judges) > 1:
            raise ValueError(
                f"a sum has one part that judges pictures, not {len(judges)}: leave one {judges[-1].name} out"
            )
        return judges[0] if judges else None

    def __add__(self, other: Method | MethodSum) -> MethodSum:
        if isinstance(other, Method):
            other = 1.0 * other
        if not isinstance(other, MethodSum):
            return NotImplemented
        return MethodSum(self.parts + other.parts)

    __radd__ = __add__

    def __mul__(self, weight: float) -> MethodSum:
        return MethodSum(tuple((weight * w, m) for w, m in self.parts))

    __rmul__ = __mul__


def at_iteration(position: float, count: int) -> int:
    """The iteration a schedule key means: a fraction of sampling below 1, an iteration number from 1 on."""
    return int(position * count + 1e-6) if position < 1 else int(position)
