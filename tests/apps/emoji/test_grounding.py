"""The term that teaches attention where things are: targets by hand, and that maps follow it."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from apps.emoji import grounding, text, unet
from apps.emoji.scenes import Placed, Thing
from apps.emoji.vocabulary import COLOURS, NAMES


@pytest.fixture(scope="module")
def tokenizer():
    return text.build_tokenizer()


@pytest.fixture(scope="module")
def scene(tokenizer):
    """'a cat and a red bow' with a cat on the left and a blue bow top right: token ids (1, 77), things."""
    ids = text.tokenize(tokenizer, ["a cat and a red bow"])
    placed = [[Placed(Thing("cat"), (0, 0, 16, 64)), Placed(Thing("bow", "blue"), (34, 0, 64, 32))]]
    return ids, grounding.pack(placed, {word: tokenizer(word).input_ids[1] for word in (*NAMES, *COLOURS)})


def test_coverage_is_the_share_of_each_cell_under_the_box():
    cover = grounding.coverage(torch.tensor([[8.0, 16.0, 32.0, 64.0]]), 4)
    assert torch.allclose(cover[0, 1], torch.tensor([0.5, 1, 0, 0]))
    assert cover[0, 0].sum() == 0
    assert cover.sum() == 4.5


def test_a_word_is_drawn_to_what_it_names_and_an_untrue_one_nowhere(scene):
    maps = grounding.targets(*scene, 8)[0]
    assert maps.shape == (77, 8, 8)
    share = grounding.NAME_SHARE
    assert (maps[2, :, :2] == share).all() and maps[2, :, 2:].sum() == 0
    assert maps[6, 0, 5] == share
    assert maps[6, 0, 4] == pytest.approx(0.75 * share), "three quarters of the cell are covered"
    assert maps[5].sum() == 0, "nothing is red"
    assert maps[[0, 1, 3, 4, *range(7, 77)]].sum() == 0


def test_the_colour_shown_has_the_rest_of_the_box(tokenizer, scene):
    ids = text.tokenize(tokenizer, ["a blue bow"])
    maps = grounding.targets(ids, scene[1], 8)[0]
    assert maps[2:4, 0, 5].tolist() == pytest.approx([1 - grounding.NAME_SHARE, grounding.NAME_SHARE])


def test_the_loss_is_least_for_the_targets_and_ignores_other_slots(scene):
    ids, things = scene
    live = torch.zeros(1, 77, dtype=torch.bool)
    live[0, [2, 5, 6]] = True
    perfect = grounding.targets(ids, things, 8).flatten(2).transpose(1, 2)
    noise = torch.rand(perfect.shape, generator=torch.Generator().manual_seed(0))
    best, worse = (grounding.grounding_loss([m], ids, live, things) for m in (perfect, noise))
    assert best < worse
    elsewhere = torch.where(live[:, None], perfect, noise)
    assert grounding.grounding_loss([elsewhere], ids, live, things) == best


def test_recording_changes_no_output_and_keeps_the_chosen_layers():
    torch.manual_seed(0)
    net = unet.build_unet((16, 16)).eval()
    call = torch.randn(2, 4, 16, 16), 500, torch.randn(2, 77, text.WIDTH)
    net.set_attn_processor(AttnProcessor2_0())
    expected = net(*call).sample
    kept = grounding.record(net)
    assert torch.allclose(net(*call).sample, expected, atol=1e-5)
    assert [tuple(m.shape) for m in kept] == [(2, 64, 77)] * 3 + [(2, 256, 77)] * 2
    assert torch.allclose(kept[0].sum(-1), torch.ones(2, 64))


@pytest.mark.slow
def test_the_maps_can_be_trained(scene, tokenizer):
    torch.manual_seed(0)
    trainer = unet.Trainer(unet.Conditioner(text.build_clip(tokenizer).text_model, tokenizer), "cpu", (16, 16))
    batch = unet.Batch(torch.randn(2, 4, 16, 16), ["a cat and a red bow"] * 2, scene[1].expand(2, -1, -1))
    optimizer = torch.optim.Adam(trainer.unet.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        losses.append(trainer.loss(batch, torch.Generator().manual_seed(1))[1])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
