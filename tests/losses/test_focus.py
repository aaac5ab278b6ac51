"""The criteria of FOCUS's published code; its numbers are in test_mmdit.py."""

import pytest
import torch

from attncontrol.losses import Focus
from tests.losses.inputs import context, evaluate, gradient, one_layer, random_attention


@pytest.mark.parametrize("criterion", ["focus", "attend-and-excite", "divide-and-bind", "conform"])
def test_an_image_without_subjects_has_no_loss_and_no_gradient(criterion):
    attention = random_attention(0)
    loss = evaluate(Focus(criterion=criterion), one_layer(attention), context([])).loss
    assert loss == 0
    assert not gradient(loss, attention)[0].any()


def test_the_weakest_subject_counts_by_its_largest_share_of_a_pixel():
    attention = torch.zeros(4, 4, 9)
    attention[..., 2], attention[..., 4] = 0.3, 0.1
    attention[1, 2, 4], attention[0, 0, 4] = 0.3, 0.2
    method = Focus(criterion="attend-and-excite", smoothing=False)
    assert evaluate(method, one_layer(attention), context([[2], [4]])).loss.item() == pytest.approx(1 - 0.5)
