"""What a user may write; mypy checks that the public names have the types that are written here."""

from typing import assert_type

import torch

import attncontrol
from attncontrol import AttendAndExcite, AttentionControlPipeline, Evaluation, Method, SynGen, attach
from attncontrol.guidance.record import ControlRecord
from attncontrol.losses import MethodSum, create_method
from attncontrol.pipelines import AttentionControlOutput

PROMPT = "a red crown and a blue bow"


def methods() -> MethodSum:
    """A sum of methods, made from classes and by name."""
    assert_type(create_method("ebama"), Method)
    assert_type(attncontrol.method_classes(), dict[str, type[Method]])
    return SynGen(step_size=20.0) + 0.5 * AttendAndExcite(thresholds={0: 0.1})


def generate(pipe: AttentionControlPipeline) -> None:
    """One image with each of the two entrances."""
    output = pipe(PROMPT, control=methods(), subjects=["crown", ["blue", "bow"], 2], layout={"bow": [0, 0, 0.5, 1]})
    assert isinstance(output, AttentionControlOutput)
    with attach(pipe, "syngen", prompt=PROMPT) as control:
        pipe(PROMPT, generator=torch.Generator().manual_seed(0))
    assert_type(control.record, ControlRecord)


def descend(evaluation: Evaluation) -> torch.Tensor:
    """The loss that a method gives."""
    return assert_type(evaluation.loss, torch.Tensor)
