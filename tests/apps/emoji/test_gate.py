"""Figures of the gate on the bundled model, few pictures each: what they mean, not how good they are."""

import numpy as np
import pytest
import torch

from apps.emoji import gate, judge
from apps.emoji.prompts import pairs
from attncontrol import AttentionControlPipeline


@pytest.fixture(scope="module")
def pipe():
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_auc_is_the_chance_that_a_positive_is_higher():
    values, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    assert gate.auc(values, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert np.isnan(gate.auc(values, np.ones(4, bool)))


def test_recording_leaves_the_pictures_and_the_pipeline_as_they_are(pipe):
    prompts = pairs("animal+object", 2, 7)
    before = pipe.unet.attn_processors
    plain, recorded = (
        judge.generate(pipe, prompts, 0, record=record, num_inference_steps=4) for record in (False, True)
    )
    assert pipe.unet.attn_processors == before
    for a, b in zip(plain, recorded, strict=True):
        assert np.abs(np.asarray(a.image, int) - np.asarray(b.image, int)).max() <= 1
        assert a.peaks == () and len(b.peaks) == 2 and all(0 < peak < 1 for peak in b.peaks)


def test_neutral_slots_replace_object_words_or_end_and_padding(pipe):
    states, empty = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a cat and a red bow", ""))
    changed = {
        which: (gate.Neutral(pipe, which)(states, ["a cat and a red bow"]) != states).any(-1)[0].nonzero().flatten()
        for which in ("objects", "end")
    }
    assert changed["objects"].tolist() == [2, 6]
    assert set(changed["end"].tolist()) <= set(range(7, 77)) and 7 in changed["end"]
    neutral = gate.Neutral(pipe, "end")(states, ["a cat and a red bow"])
    assert torch.equal(neutral[0, 7:], empty[0, 7:])
