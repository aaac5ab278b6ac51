"""One round without a model: who is evaluated, what is read, and where the gradients lead."""

from dataclasses import dataclass

import pytest
import torch

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap
from attncontrol.guidance.record import ImageRecord, StepRecord
from attncontrol.guidance.round import Part, Round
from attncontrol.guidance.targets import GuidedImage, Request, Target
from attncontrol.losses.base import Evaluation, Method, Reading, option
from tests.losses.inputs import context, structure

LAYER = Layer("up_blocks.0.attn2", "up", True, (1, 2))
LATENTS = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
SQUARES = (LATENTS**2).sum(1).tolist()


@dataclass(frozen=True, kw_only=True)
class Squares(Method):
    """`factor` times the sum of squares; its objective in refinement, if any, is the sum."""

    name = "squares"
    factor: float = option(1.0, "of the loss")
    refined: bool = option(False, "whether refinement descends something else")

    def evaluate(self, maps, contexts):
        own = maps.layers[0].probabilities.flatten(1)
        loss = self.factor * (own**2).sum(1)
        return Evaluation(loss, own.sum(1) if self.refined else None, loss + 1 if self.factor > 1 else None)


def begun(methods, requests):
    """A round of two images, and the images."""
    images = [GuidedImage(row, Target(structure([[1]])), ImageRecord(structure([[1]]))) for row in range(2)]
    for image, request in zip(images, requests, strict=True):
        image.record.steps.append(StepRecord(0, 0.0))
        image.request = request
    leaf = LATENTS.clone().requires_grad_()
    maps = AttentionMaps((LayerMap(LAYER, leaf[:, None, :, None]),))
    parts = [Part(method, 1.0, [LAYER]) for method in methods]
    return Round(parts, images, maps, leaf, lambda image, part: context([[1]])), images


def test_what_two_parts_say_is_read_at_once_and_noted_once():
    both = Request({0: 1.0, 1: 1.0})
    round_, images = begun([Squares(), Squares(factor=3.0)], [both, both])
    round_.evaluate()
    assert round_.read(torch.tensor([7.0, 8.0])) == [7, 8]
    for image, loss in zip(images, SQUARES, strict=True):
        assert image.readings == {0: Reading(loss, loss), 1: Reading(3 * loss, 3 * loss + 1)}
        assert image.last_losses == {0: loss, 1: 3 * loss} and image.step.losses == {"squares": [loss, 3 * loss]}
    round_.evaluate()
    assert round_.read() == [] and all(len(image.step.losses["squares"]) == 2 for image in images)


def test_each_image_is_evaluated_once_for_each_part_that_it_asks_for():
    round_, (first, _) = begun([Squares(), Squares()], [Request({0: 0.0}), Request({0: 0.0, 1: 1.0})])
    round_.evaluate()
    first.request = Request({1: 1.0})
    round_.evaluate()
    assert [(entry.part, entry.places) for entry in round_.evaluated] == [(0, [0, 1]), (1, [1]), (1, [0])]
    assert round_.evaluated[2].evaluation.loss.tolist() == SQUARES[:1]


def test_moves_add_up_by_weight_and_those_who_only_look_do_not_move():
    round_, _ = begun([Squares(), Squares(factor=3.0)], [Request({0: 2.0, 1: 0.5}), Request({0: 0.0})])
    round_.evaluate()
    torch.testing.assert_close(round_.moves(), torch.stack([2 * (2.0 + 0.5 * 3) * LATENTS[0], torch.zeros(2)]))


def test_a_relative_part_moves_by_a_share_of_the_latents_norm_beside_another():
    requests = [Request({0: 1.0, 1: 0.5}), Request({1: 0.25})]
    round_, _ = begun([Squares(), Squares(factor=3.0, relative_step=1.0)], requests)
    round_.evaluate()
    # a gradient along the latents, stretched to their norm, is the latents
    torch.testing.assert_close(round_.moves(), torch.stack([2.5 * LATENTS[0], 0.25 * LATENTS[1]]))


@pytest.mark.parametrize("refined", [False, True])
def test_the_objective_is_descended_in_refinement_alone(refined):
    round_, _ = begun([Squares(refined=refined)], [Request({0: 1.0}, refining=True), Request({0: 1.0})])
    round_.evaluate()
    assert round_.has_objective(0) is refined and not round_.has_objective(1)
    first = torch.ones(2) if refined else 2 * LATENTS[0]
    torch.testing.assert_close(round_.moves(), torch.stack([first, 2 * LATENTS[1]]))
