"""The choice among drafted noises, with looks that say what the test wants."""

import pytest
import torch

from attncontrol import BestStart, Ebama
from attncontrol.families import family_of
from attncontrol.guidance.cost import method_cost
from attncontrol.guidance.settings import settings_for
from attncontrol.losses.best_start import reordered
from attncontrol.losses.combining import resolve_control
from tests.losses.inputs import alone, context
from tests.losses.layouts import captured, denoiser_maps
from tests.tiny_transformers import flux

NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Looks:
    """Answers with the losses of a table [start][image], and keeps what was asked."""

    def __init__(self, table):
        self.table, self.asked = table, []

    def __call__(self, starts, ahead, rows):
        self.asked.append((starts, ahead, list(rows)))
        return torch.tensor([self.table[len(self.asked) - 1][row] for row in rows])


def test_another_order_has_the_same_numbers_and_depends_on_nothing_else():
    first = reordered(NOISE, 1)
    assert torch.equal(first, reordered(NOISE, 1)) and torch.equal(reordered(NOISE, 0), NOISE)
    assert torch.equal(first[1:], reordered(NOISE[1:], 1))  # whatever batch it is in
    assert not torch.equal(first, reordered(NOISE, 2))
    assert torch.equal(first.flatten(1).sort(1).values, NOISE.flatten(1).sort(1).values)


def test_every_image_goes_on_from_its_best_draft():
    look = Looks([[0.0, -1.0, 0.5], [0.5, -0.5, -0.5], [-0.5, -0.9, -0.2]])
    chosen = BestStart(starts=3).prepare(NOISE, look)
    assert chosen.losses.tolist() == [-0.5, -1.0, -0.5]
    assert [rows for _, _, rows in look.asked] == [[0, 1, 2]] * 3
    for image, start in enumerate((2, 0, 1)):
        assert torch.equal(chosen.noise[image], reordered(NOISE, start)[image])


def test_a_good_draft_ends_the_search_for_its_image_alone():
    look = Looks([[0.0, -1.0, 0.5], [-0.8, None, 0.0], [None, None, -0.1]])
    method = BestStart(starts=3, enough=-0.7, spare=True)
    chosen = method.prepare(NOISE, look)
    assert [rows for _, _, rows in look.asked] == [[0, 1, 2], [0, 2], [2]]
    assert [method.spares(loss) for loss in chosen.losses.tolist()] == [True, True, False]
    assert not BestStart(enough=-0.7).spares(-1.0) and not BestStart().spares(-1.0)


def test_of_equal_drafts_the_first_counts_and_one_that_is_just_enough_ends_the_search():
    look = Looks([[-0.75, -0.5, -0.5], [None, -0.5, -0.5]])
    method = BestStart(starts=2, enough=-0.75, spare=True)
    chosen = method.prepare(NOISE, look)
    assert torch.equal(chosen.noise, NOISE) and [rows for _, _, rows in look.asked] == [[0, 1, 2], [1, 2]]
    assert method.spares(-0.75) and not method.spares(-0.74)


def test_a_draft_that_is_not_a_number_is_never_chosen():
    look = Looks([[0.0, 0.0, 0.0], [torch.nan, -1.0, torch.nan]])
    chosen = BestStart(starts=2).prepare(NOISE, look)
    assert chosen.losses.tolist() == [0.0, -1.0, 0.0]


def test_one_start_needs_no_look():
    assert BestStart(starts=1).prepare(NOISE, Looks([])) is None


def test_it_guides_nothing_unless_it_is_told_to_and_its_drafts_are_counted():
    family = family_of(flux())
    methods = resolve_control("best-start", settings_for(family, {}))
    found = method_cost(family, methods.parts[0][1], (8, 8), steps=10)
    assert found.passes == (0, 0) and found.arithmetic == (1 + 12 / 10,) * 2
    early = method_cost(family, BestStart(enough=-0.7, relative_step=0.1), (8, 8), steps=10)
    assert early.passes[0] > 0 and early.arithmetic[1] - early.arithmetic[0] == pytest.approx(9 / 10)
    assert BestStart(starts=1).draft_calls == (0, 0)


def test_the_loss_is_ebamas_per_object():
    contexts = [context([[2, 3], [5]], 8), context([[2]], 8), context([], 8)]
    for now, objects in zip(contexts, (2, 1, 1), strict=True):
        maps = alone(captured(BestStart(), denoiser_maps()))
        whole, mean = (method.evaluate(maps, [now]).loss for method in (Ebama(), BestStart()))
        assert mean == whole / objects


def test_a_draft_must_go_forward():
    with pytest.raises(ValueError, match="ahead must rise"):
        BestStart(ahead=(0.3, 0.2))
