"""What the page says of a result, and the maps it gets."""

import numpy as np
import pytest
import torch

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from PIL import Image

from attncontrol.demo import examples, verdicts
from attncontrol.demo.result_view import LARGEST_MAP, sheet_of
from attncontrol.evaluation.oracle import verdict
from attncontrol.guidance.record import ImageRecord
from attncontrol.models import BUNDLED, default_steps
from attncontrol.prompt.structure import Entity, PromptStructure, Word

BIRD, BOTH = [("bird", "right"), ("suitcase", "missing")], [("bird", "right"), ("suitcase", "right")]


def test_a_sentence_says_what_control_did():
    assert verdicts.sentence(BIRD, BOTH) == "The model forgot the suitcase. With attention control it is right."
    assert verdicts.sentence(BOTH, BIRD) == "Control spoiled this one: it forgot the suitcase."
    assert "nothing to mend" in verdicts.sentence(BOTH, BOTH)
    assert "try another seed" in verdicts.sentence(BIRD, BIRD)
    other = [("bird", "missing"), ("suitcase", "right")]
    assert verdicts.sentence(BIRD, other) == "The model forgot the suitcase. With control it still forgot the bird."
    assert verdicts.sentence(BIRD) == "The model forgot the suitcase."
    assert verdicts.sentence([], []) == ""
    two = [("red bow", "wrong colour"), ("blue car", "wrong colour"), ("dog", "in the wrong place")]
    assert verdicts.sentence(two).startswith("The model gave a wrong colour to the red bow and the blue car and misp")


def test_unknown_words_are_those_that_the_bundled_model_was_not_taught():
    words = "a Cat and the castle , red balloons".split()
    assert [word for word in words if verdicts.is_unknown("emoji", word)] == ["castle", "balloons"]
    assert not verdicts.is_unknown("runwayml/stable-diffusion-v1-5", "castle")


@pytest.mark.parametrize(("model", "index"), [(m, i) for m in BUNDLED for i in range(len(examples.read(m)))])
def test_the_stored_pictures_show_what_their_cards_say(model, index):
    example = examples.read(model)[index]
    for side in examples.SIDES:
        with Image.open(examples.file(model, f"{index}_{side}.webp")) as image:
            judged = verdict(example["prompt"], image.convert("RGB"))
        for (_, state), present, coloured in zip(example[side], judged.present, judged.coloured, strict=True):
            assert present == (state != verdicts.MISSING)
            assert coloured == (state in (verdicts.RIGHT, verdicts.MISPLACED))
    assert all(state == verdicts.RIGHT for _, state in example["control"])
    assert any(state != verdicts.RIGHT for _, state in example["plain"])
    result = examples.result(model, index)
    assert len(result["sides"]) == 2 and result["maps"]["steps"] == default_steps(model)
    assert bool(result["boxes"]) == ("layout" in example)


def test_another_model_than_the_bundled_ones_has_no_examples():
    assert examples.read("runwayml/stable-diffusion-v1-5") == [] and examples.stored("../stored/emoji") is None
    assert 'class="card"' not in examples.cards("runwayml/stable-diffusion-v1-5").html_template


def test_the_sheet_of_maps_has_a_row_per_side_and_word_and_a_scale_for_both_sides():
    structure = PromptStructure("a cat and a frog", (Entity(Word("cat")), Entity(Word("frog"))), "subjects")
    plain, control = torch.zeros(3, 2, 4, 5), torch.zeros(3, 2, 4, 5)
    plain[1, 0, 2, 3], control[1, 0, 2, 3], control[2, 1] = 0.2, 0.4, 0.1
    sheet = sheet_of([ImageRecord(structure, maps=plain), ImageRecord(structure, maps=control)])
    assert sheet.words == ["cat", "frog"] and sheet.steps == 3 and sheet.image.size == (4 * 5, 4 * 4)
    assert np.allclose(sheet.peaks, [[0.4 / 3, 0.4], [0.1 / 3, 0.1]])
    tiles = np.asarray(sheet.image).reshape(4, 4, 4, 5).swapaxes(1, 2)  # rows, tiles, height, width
    assert tiles[0, 2, 2, 3] == 128 and tiles[2, 2, 2, 3] == 255 and tiles[0].max() == 128
    assert tiles[3, 3].min() == 255 and tiles[1].max() == 0
    assert tiles[0, 0, 2, 3] == 128
    wide = torch.rand(2, 2, 64, 32)
    assert sheet_of([ImageRecord(structure, maps=wide)]).image.size == (3 * LARGEST_MAP // 2, 2 * LARGEST_MAP)
    assert sheet_of([None]) is None and sheet_of([ImageRecord(structure)]) is None
