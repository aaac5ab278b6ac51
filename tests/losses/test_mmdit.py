"""Published numbers on joint attention: tests/golden/mmdit, whose index.json says where each comes from."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attncontrol.attention.capture import ForwardCapture, ForwardTruncated
from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap, Owners
from attncontrol.losses import AttendAndExcite, Focus
from attncontrol.losses.focus import CRITERIA, Subjects, conform_loss
from tests.golden import golden_cases
from tests.losses.inputs import context, evaluate, gradient, mean_cross
from tests.losses.single import syngen_loss


class Attention(nn.Module):
    """Hands what it is given to scaled-dot-product attention, as the blocks of transformers do."""

    def forward(self, query, key):
        return F.scaled_dot_product_attention(query, key, key)


@pytest.mark.parametrize("case", golden_cases("mmdit", "capture"))
def test_published_maps(case):
    query, key, stored = (case.tensor(name) for name in ("query", "key", "stored"))
    text, pixels = case["kwargs"]["n_text"], stored.shape[1]
    image_first = case["kwargs"]["order"] == "image-text"
    queries = slice(0, pixels) if image_first else slice(text, None)
    columns = slice(pixels, None) if image_first else slice(0, text)
    attention = Attention()
    capture = ForwardCapture([], {"attn": attention}, [(queries, columns)])
    with capture.installed():
        with pytest.raises(ForwardTruncated):
            attention(query, key)
        found = capture.maps["attn"].compute(slice(None), slice(None))[0].mean(0)
    found = found[:, case["expected"]["token_positions"]]
    torch.testing.assert_close(found.T, stored, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", golden_cases("mmdit", "loss"))
def test_published_losses(case):
    function = case["kwargs"]["function"]
    maps = case.tensor("maps", requires_grad=True)
    sizes = case["kwargs"]["group_sizes"]
    tokens = Owners(tuple(number for number, size in enumerate(sizes) for _ in range(size)), len(sizes))
    subjects = Subjects(maps.unflatten(1, (8, 8)), tokens, Owners((0,) * len(sizes), 1))
    if function == "conform_loss":
        loss = conform_loss(subjects, [case.tensor("previous_maps").unflatten(1, (8, 8))])
    else:
        name = {"controller_loss": "focus"}.get(function, function.removesuffix("_loss").replace("_", "-"))
        loss = CRITERIA[name](subjects)
    check(case, loss, maps, "loss")


@pytest.mark.parametrize("case", golden_cases("mmdit", "cost"))
def test_published_costs(case):
    """Of a subject's tokens per block: the mean over blocks, smoothed, and the criterion."""
    kwargs, blocks = case["kwargs"], case.tensor("block_maps", requires_grad=True)
    owners = torch.tensor([number for number, group in enumerate(case["expected"]["label_groups"]) for _ in group])
    groups = [tuple((owners == number).nonzero().flatten().tolist()) for number in owners.unique()]
    method = Focus(variant="reference", criterion=kwargs["heuristic"].replace("_", "-"))
    now = context([[group] for group in groups])
    if "previous_block_maps" in case:
        before = evaluate(method, layers_of(case.tensor("previous_block_maps")), now)
        now = dataclasses.replace(now, carry=before.carry)
    check(case, evaluate(method, layers_of(blocks), now).loss, blocks, "cost")


def layers_of(blocks):
    """Captured layers of the tokens' maps [blocks, tokens, pixels]."""
    return joint_maps(blocks.transpose(1, 2)[:, None])


def check(case, loss, inputs, name="loss"):
    assert loss.item() == pytest.approx(case["expected"][name], rel=1e-5, abs=1e-6)
    (found,) = gradient(loss, inputs)
    array = next(array for array in case.arrays if array.startswith("grad_"))
    expected = case.tensor(array)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def joint_maps(rows):
    """Captured layers of joint rows [blocks, heads, pixels, text positions]."""
    side = round(rows.shape[2] ** 0.5)
    layers = [Layer(f"transformer_blocks.{i}.attn", "joint", True, (side, side)) for i in range(len(rows))]
    return AttentionMaps(tuple(map(LayerMap, layers, rows)))


def words_of(case):
    """Every subject's positions, those of CLIP and of T5 behind its 77."""
    both = zip(case["kwargs"]["token_indices_clip"], case["kwargs"]["token_indices_t5"], strict=True)
    return [[*clip, *(77 + i for i in t5)] for clip, t5 in both]


ATTEND_AND_EXCITE = [case for case in golden_cases("mmdit", "criterion") if case.id != "criterion_syngen_sd3"]


def worst(rows, case, words):
    """The loss of words whose first T5 position is left out of the softmax, as in that code."""
    kwargs = case["kwargs"]
    text = (slice(1, kwargs["last_idx_clip"]), slice(77 + 1, 77 + kwargs["last_idx_t5"]))
    now = context([[tuple(word)] for word in words], text=text)
    return evaluate(AttendAndExcite(), joint_maps(rows), now).loss


@pytest.mark.parametrize("case", ATTEND_AND_EXCITE)
def test_published_attend_and_excite_on_two_encoders(case):
    """A word's map is the mean of its map in CLIP and its map in T5, or the loss is the mean of both losses."""
    rows, words = case.tensor("joint_rows", requires_grad=True), words_of(case)
    if case["kwargs"]["average_t5_clip"]:
        loss = worst(rows, case, words)
    else:
        encoders = ([[i for i in word if (i < 77) == clip] for word in words] for clip in (True, False))
        loss = sum(worst(rows, case, own) for own in encoders) / 2
    assert loss.item() == pytest.approx(case["expected"]["parts"]["loss_excite"], rel=1e-5, abs=1e-6)
    if list(case["expected"]["parts"]) == ["loss_excite"]:
        check(case, loss, rows)


@pytest.mark.parametrize("case", [case for case in golden_cases("mmdit", "criterion") if "syngen" in case.id])
def test_published_syngen_on_two_encoders(case):
    """That code averages CLIP's position i with T5's i - 1, which has no start of text."""
    kwargs, rows = case["kwargs"], case.tensor("joint_rows", requires_grad=True)
    attention = mean_cross(joint_maps(rows), (8, 8))
    count = kwargs["last_idx_clip"] - kwargs["start_idx_clip"]
    clip, t5 = attention[..., kwargs["start_idx_clip"] :], attention[..., 77 + kwargs["start_idx_t5"] :]
    together = (clip[..., :count] + t5[..., :count]) / 2
    nouns, adjectives = kwargs["token_indices_t5"], kwargs["adjs_token_t5"][0]
    groups = [[(adjective[0][0],), tuple(noun)] for adjective, noun in zip(adjectives, nouns, strict=True)]
    loss = sum(syngen_loss(together, groups, range(count)))
    check(case, loss, rows)
