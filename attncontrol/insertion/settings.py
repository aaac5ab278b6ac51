"""Settings of Add-it, and the steps that they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from attncontrol.editing.settings import Settings
from attncontrol.insertion.flow_inversion import ITERATIONS
from attncontrol.losses.base import option

PUBLISHED_STEPS = 30
WEIGHED_AT = 5 / PUBLISHED_STEPS  # where an automatic gamma is found
FIRST_GAMMA = 1.05  # until then


@dataclass(frozen=True)
class Plan:
    """The numbers of the steps at which things happen, from 0.

    `first` is the first one that counts: latents before the transfer are thrown away, but the reference draws them.
    `joint` and `single` are how many steps each kind of block is extended, from the first one; pictures settle from
    step `settle` on.
    """

    first: int
    joint: int
    single: int
    transfer: int
    blend: tuple[int, ...]
    weigh: int | None
    settle: int


@dataclass(frozen=True, kw_only=True)
class AddIt(Settings):
    """Settings of Add-it (Tewel et al., ICLR 2025, arXiv 2411.07232) for drawn scenes; `for_pictures` has the others.

    Fractions are of the steps; in the reference variant always of 30, as published.
    """

    variant: Literal["default", "reference"] = option(
        "default", "'reference' is the published code with its quirks, 'default' has its defects repaired"
    )
    gamma: float | Literal["auto"] = option(
        "auto", "factor of the new image's own keys: above 1 it looks less at the source. 'auto' balances the two"
    )
    joint_stop: float = option(
        11 / 30, "fraction of the steps in which joint blocks see the source", at_least=0, at_most=1
    )
    single_stop: float = option(
        21 / 30, "fraction of the steps in which single blocks see the source", at_least=0, at_most=1
    )
    transfer: float = option(
        2 / 30, "where the new image's latents become the noised source; 0 leaves it out", at_least=0, at_most=1
    )
    blend: tuple[float, ...] = option(
        (15 / 30,),
        "where the source's latents take the place of the new image's around the new thing; none leaves it out",
        at_least=0,
        at_most=1,
    )
    layers: str = option(
        "", "layers that show where the new thing is, as in 'joint.13, single.23'; the published ones by default"
    )
    inversion: Literal["fixed-point", "noise"] = option(
        "fixed-point", "how a picture of yours becomes noise: 'noise' mixes it with noise instead of inverting it"
    )
    settle: float = option(
        0.1, "fraction of the steps that draws a picture of yours again before it is used", at_least=0, at_most=1
    )
    offset: bool = option(False, "whether the source's error at every step is taken from the new image, too")

    def __post_init__(self) -> None:
        """Raise ValueError for values that make no sense, alone or together."""
        object.__setattr__(self, "blend", tuple(self.blend))  # a list from JSON
        super().__post_init__()
        if self.gamma != "auto" and not _is_gamma(self.gamma):
            raise ValueError(f"gamma must be 'auto' or a number above 0 and at most 10, not {self.gamma!r}")
        late = [at for at in self.blend if at < self.transfer]
        if late:
            raise ValueError(f"blend at {late[0]:g} lies before transfer at {self.transfer:g}, which would undo it")
        if self.gamma == "auto" and self.joint_stop <= WEIGHED_AT:
            raise ValueError(
                f"gamma='auto' is found in joint blocks after {WEIGHED_AT:.2g} of the steps, but joint_stop is "
                f"{self.joint_stop:g}: raise it, or give a number for gamma, as 1.05"
            )

    @classmethod
    def for_pictures(cls, **settings: Any) -> AddIt:
        """The published settings for pictures that are inverted, with yours in their place."""
        return cls(**{"gamma": 1.1, "transfer": 4 / 30, "blend": (18 / 30,), **settings})

    def plan(self, steps: int) -> Plan:
        """The steps of a run of so many."""
        of = PUBLISHED_STEPS if self.variant == "reference" else steps

        def at(fraction: float) -> int:
            return min(round(fraction * of), steps - 1)

        joint, weigh = round(self.joint_stop * of), None
        if self.gamma == "auto":
            weigh = min(max(at(WEIGHED_AT), at(self.transfer)), joint - 1)
            if weigh < at(self.transfer):
                raise ValueError(
                    f"gamma='auto' cannot be found in {steps} steps, since no joint block sees the source after the "
                    "transfer: take more steps, raise joint_stop, or give a number for gamma, as 1.05"
                )
        return Plan(
            0 if self.variant == "reference" else at(self.transfer),
            joint,
            round(self.single_stop * of),
            at(self.transfer),
            tuple(sorted({at(fraction) for fraction in self.blend})),
            weigh,
            int(steps - steps * self.settle),
        )

    def calls(self, steps: int, is_picture: bool) -> int:
        """How often the model is called in a run of so many steps, without those that find gamma."""
        plan = self.plan(steps)
        inserting = steps - plan.first
        if not is_picture:
            return steps + inserting
        return steps - plan.settle + (ITERATIONS * steps if self.inversion == "fixed-point" else 0) + inserting


def _is_gamma(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 < value <= 10
