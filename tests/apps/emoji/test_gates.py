"""Training of gates on small budgets, and the measure of placement by hand."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from apps.emoji import gates, placement, unet
from apps.emoji.judge import Outcome
from apps.emoji.scenes import Placed, Thing
from attncontrol.evaluation.oracle import Detection, Verdict
from attncontrol.grounding import add_gates
from attncontrol.models import resolve


@pytest.fixture(scope="module")
def pipe():
    return StableDiffusionPipeline.from_pretrained(resolve("emoji"))


@pytest.fixture(scope="module")
def phrases(pipe):
    return gates.Phrases(pipe.text_encoder, pipe.tokenizer)


def trainer_of(pipe, phrases):
    return gates.Trainer(pipe.unet, unet.Conditioner(pipe.text_encoder, pipe.tokenizer), phrases)


SCENES = [
    [Placed(Thing("cat"), (0, 0, 32, 64)), Placed(Thing("bow", "red"), (36, 8, 60, 30))],
    [Placed(Thing("dog"), (8, 8, 50, 50))],
]


def step(trainer):
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return trainer.update(latents, ["a cat and a red bow", "a dog"], gates.pack(SCENES, trainer.phrases), 0.0)


def test_phrases_are_the_states_that_a_grounded_run_encodes(pipe, phrases):
    tokens = pipe.tokenizer(["red bow", "cat"], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = pipe.text_encoder(**tokens).pooler_output
    rows = [phrases.rows[Thing("bow", "red")], phrases.rows[Thing("cat")]]
    torch.testing.assert_close(phrases.states[rows], states, rtol=1e-5, atol=1e-5)


def test_attention_is_drawn_into_boxes():
    """A map that has a box's token in its box alone costs less than one that has it elsewhere."""
    cells, boxes, live = 16, torch.tensor([[[0.0, 0.0, 32.0, 64.0]]]), torch.tensor([[True]])

    def loss(columns) -> Tensor:
        maps = torch.full((1, cells + gates.SLOTS, cells + gates.SLOTS), 1e-4)
        grid = maps[0, :cells, cells].view(4, 4)
        grid[:, columns] = 0.6
        return gates.map_loss([maps], boxes, live)

    assert loss(slice(0, 2)) < loss(slice(0, 4)) < loss(slice(2, 4))


def test_only_gates_learn_and_a_resumed_run_goes_on_as_the_unbroken_one(pipe, phrases, tmp_path):
    unbroken = trainer_of(pipe, phrases)
    before = {name: p.clone() for name, p in unbroken.unet.named_parameters()}
    step(unbroken)
    step(unbroken)
    changed = {name for name, p in unbroken.unet.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".fuser." in name or name.startswith("position_net") for name in changed)
    assert {".".join(name.split(".")[:2]) for name in changed if ".fuser." in name} == set(gates.GATED)
    unbroken.save(tmp_path / "gates.pt", 5.0)
    expected = step(unbroken)
    resumed = trainer_of(pipe, phrases)
    assert resumed.load(tmp_path / "gates.pt") == 5.0
    assert step(resumed) == pytest.approx(expected, rel=1e-4)


def test_what_is_exported_is_what_was_trained(pipe, phrases, tmp_path):
    trainer = trainer_of(pipe, phrases)
    step(trainer)
    trainer.save(tmp_path / "gates.pt", 0.0)
    gates.export(tmp_path / "gates.pt", tmp_path / gates.FILE)
    assert (tmp_path / gates.FILE).stat().st_size < 3_000_000
    names = load_file(tmp_path / gates.FILE).keys()
    again = StableDiffusionPipeline.from_pretrained(resolve("emoji"))
    add_gates(again, tmp_path / gates.FILE)
    for name, value in trainer.unet.named_parameters():
        if name in names:
            torch.testing.assert_close(again.unet.get_parameter(name), value.half().float(), rtol=0, atol=0)


def test_overlap_counts_the_best_thing_of_the_name():
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)]
    seen = (
        Detection("cat", None, (0.6, 0.6, 0.9, 0.9), 0.9),
        Detection("cat", None, (0.0, 0.0, 0.5, 0.25), 0.9),
        Detection("bow", "red", (0.0, 0.0, 0.5, 0.5), 0.9),
    )
    outcome = Outcome("", 0, Verdict((True, False), (True, False), seen), None)
    prompt = ("a cat and a frog", [Thing("cat"), Thing("frog")])
    assert placement.overlaps(outcome, prompt, boxes) == [pytest.approx(0.5), 0.0]


def test_boxes_are_those_of_rendered_scenes():
    prompt = ("a cat and a red bow", [Thing("cat"), Thing("bow", "red")])
    boxes = placement.boxes_of(prompt, 3)
    assert boxes == placement.boxes_of(prompt, 3) != placement.boxes_of(prompt, 4)
    assert np.all((np.array(boxes) >= 0) & (np.array(boxes) <= 1))
    assert placement.iou(*boxes) < 0.1
