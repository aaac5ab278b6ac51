"""Figures of the gate on the bundled models, few pictures each: what they mean, not how good they are."""

import numpy as np
import pytest
import torch

from apps.emoji import gate, judge
from apps.emoji.prompts import pairs
from attncontrol import AttentionControlPipeline
from attncontrol.families import family_of


@pytest.fixture(scope="module", params=["emoji", "emoji-flux"])
def pipe(request):
    pipe = AttentionControlPipeline.from_pretrained(request.param)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_auc_is_the_chance_that_a_positive_is_higher():
    values, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    assert gate.auc(values, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert np.isnan(gate.auc(values, np.ones(4, bool)))


def test_recording_leaves_the_pictures_and_the_pipeline_as_they_are(pipe):
    prompts = pairs("animal+object", 2, 7)
    plain, recorded = (
        judge.generate(pipe, prompts, 0, record=record, num_inference_steps=4) for record in (False, True)
    )
    for a, b in zip(plain, recorded, strict=True):
        assert np.array_equal(a.image, b.image)
        assert a.peaks == () and len(b.peaks) == 2 and all(0 < peak < 1 for peak in b.peaks)


def test_peaks_are_of_the_things_own_words(pipe):
    prompts = pairs("animal+animal", 2, 7)
    with judge.recorded_attention(pipe, 2, 1) as steps:
        judge.generate(pipe, prompts, 0, num_inference_steps=1)
    (maps,) = steps
    assert maps.ndim == 4 and len(maps) == 2
    first = family_of(pipe).text[0].start or 0  # position of the first word, an article; the second is the animal
    for (_, things), row, peaks in zip(prompts, maps, judge._peaks(pipe, steps, prompts), strict=True):
        wanted = [row[..., first + 1 + 3 * index].max().item() for index in range(len(things))]
        assert peaks == pytest.approx(wanted)


def test_neutral_slots_replace_object_words_or_end_and_padding(pipe):
    (states, _), (empty, _) = (judge.text_states(pipe, [text]) for text in ("a cat and a red bow", ""))
    neutral = {which: gate.Neutral(pipe, which)(states, ["a cat and a red bow"])[0] for which in ("objects", "end")}
    changed = {which: (new != states[0]).any(-1).nonzero().flatten().tolist() for which, new in neutral.items()}
    first = changed["objects"][0] - 1  # slot of the first word
    assert changed["objects"] == [first + 1, first + 5]
    end = first + 6
    assert end in changed["end"] and set(changed["end"]) <= set(range(end, states.shape[1]))
    assert torch.equal(neutral["end"][end:], empty[0, end:])
