"""How often the engine runs the denoiser, how far it moves the latents, how often it waits for the device."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attncontrol import (
    AttendAndExcite,
    AttentionControlPipeline,
    Conform,
    LayoutGuidance,
    SynGen,
    create_method,
    method_classes,
)
from attncontrol.attention.probabilities import attention_probabilities
from attncontrol.families import family_of
from attncontrol.guidance.engine import Engine
from attncontrol.guidance.guided_pass import GuidedPass
from tests import tiny

PROMPT = "a red cat and a blue frog"
LAYOUT = {"red cat": [0.0, 0.1, 0.5, 0.9], "blue frog": [0.5, 0.1, 1.0, 0.9]}


@pytest.fixture(scope="module")
def tiny_pipe():
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, control, prompt=PROMPT, **arguments):
    many = isinstance(prompt, list)
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompt) if many else 1)]
    defaults = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "latent", "memory": "fast"}
    return pipe(prompt, control=control, generator=generators, **{**defaults, **arguments})


@pytest.fixture
def guided_rows(tiny_pipe):
    """The number of images of every guided forward."""
    rows = []

    def note(module, args, kwargs):
        if torch.is_grad_enabled():
            rows.append(len(args[0] if args else kwargs["sample"]))

    handle = tiny_pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    yield rows
    handle.remove()


def test_no_guided_forward_where_nothing_is_guided(tiny_pipe, guided_rows):
    run(tiny_pipe, AttendAndExcite(thresholds={}, start=0.3, stop=0.6), num_inference_steps=10)
    assert guided_rows == [1] * 3
    run(tiny_pipe, 0 * AttendAndExcite())
    run(tiny_pipe, AttendAndExcite(start=0.5, stop=0.5, thresholds={}))
    assert guided_rows == [1] * 3


def test_the_first_refinement_reuses_the_evaluation_that_decides_on_it(tiny_pipe, guided_rows):
    """Three evaluations for two moves: one before each, the last of them for the plain update."""
    control = AttendAndExcite(thresholds={0: 0.9999}, max_refinement_steps=2, stop=0.3, step_size=1.0)
    output = run(tiny_pipe, control)
    assert output.control.images[0].steps[0].refinements == 2
    assert guided_rows == [1] * 3


def test_latents_that_did_not_move_are_evaluated_once(tiny_pipe, guided_rows):
    """In the first step groups of single tokens have no loss for refinement nor for the plain update (CONFORM, 5)."""
    output = run(tiny_pipe, Conform(stop=0.3, refine_at=(0,)), "a cat and a frog", subjects=[[2], [5]])
    assert guided_rows == [1]
    assert [step.moved for step in output.control.images[0].steps] == [False] * 3
    assert output.control.images[0].steps[0].losses == {"conform": [0.0]}


def test_only_images_that_need_it_are_refined(tiny_pipe, guided_rows):
    prompts = ["a cat and a frog", ", ."]
    with pytest.warns(UserWarning, match="no subjects"):
        run(tiny_pipe, AttendAndExcite(thresholds={0: 0.9999}, max_refinement_steps=2, stop=0.3), prompts)
    assert guided_rows == [1] * 3


def test_a_pass_reads_the_layers_of_the_parts_that_ask_in_its_step(tiny_pipe, monkeypatch):
    """Refinement counts as well, and what another image of the batch has no words for."""
    read, run_pass = [], GuidedPass.run
    monkeypatch.setattr(
        GuidedPass,
        "run",
        lambda self, *args: (read.append({layer.place for layer in self.layers}), run_pass(self, *args))[1],
    )
    early = AttendAndExcite(layers="mid", thresholds={0.6: 0.9999}, max_refinement_steps=1, stop=0.4)
    for prompt in (PROMPT, [PROMPT, "a cat and a frog"]):
        run(tiny_pipe, early + SynGen(layers="up.1", start=0.2, stop=0.8), prompt, num_inference_steps=5)
        assert read == [{"mid"}, {"mid", "up"}, {"up"}, {"mid", "up"}, {"mid", "up"}]
        read.clear()


def test_an_image_that_has_enough_leaves_the_others_alone(tiny_pipe, guided_rows):
    prompts, conform = [PROMPT, "a green bird and a black dog"], Conform(stop=1.0, refine_at=(), relative_step=0.02)
    losses = [
        [step.losses["conform"][0] for step in image.steps]
        for image in run(tiny_pipe, conform, prompts).control.images
    ]
    better = min(losses, key=lambda own: own[0])
    assert better[0] < min(max(losses, key=lambda own: own[0]))
    guided_rows.clear()
    output = run(tiny_pipe, replace(conform, enough=better[0]), prompts)
    assert guided_rows == [2, 1, 1]
    assert sorted(sum(step.moved for step in image.steps) for image in output.control.images) == [1, 3]


@pytest.fixture
def moves(monkeypatch):
    """Every step's move and the latents it starts from, [images, ...] each."""
    seen = []
    guide = Engine.guide

    def spy(self, call, *args):
        found = guide(self, call, *args)
        if (move := found.move) is not None:
            seen.append((move, call["sample"][-len(move) :].float()))
        return found

    monkeypatch.setattr(Engine, "guide", spy)
    return seen


def bundled():
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS = {
    "1.x": lambda: AttentionControlPipeline.from_pipe(tiny.stable_diffusion()),
    "2.x": lambda: AttentionControlPipeline.from_pipe(tiny.second()),
    "XL": lambda: AttentionControlPipeline.from_pipe(tiny.stable_diffusion_xl()),
    "bundled": bundled,
}


def relative_lengths(moves):
    return [(move.flatten(1).norm(dim=1) / start.flatten(1).norm(dim=1)).tolist() for move, start in moves]


def test_refinement_of_one_part_evaluates_no_other(tiny_pipe):
    """And the plain update afterwards takes what is known of these latents from the refinement."""
    refining = AttendAndExcite(thresholds={0: 0.9999}, max_refinement_steps=3, stop=0.3, step_size=1.0)
    steps = run(tiny_pipe, refining + 0.5 * SynGen(start=0.0, stop=0.7)).control.images[0].steps
    assert [{name: len(losses) for name, losses in step.losses.items()} for step in steps] == [
        {"attend-and-excite": 4, "syngen": 1},
        {"syngen": 1},
        {},
    ]


@pytest.mark.parametrize("model", MODELS)
def test_a_relative_step_has_the_same_length_for_every_model(model, moves):
    pipe = MODELS[model]()
    size = {"height": 64, "width": 64} if model == "bundled" else {}
    for loss_scale in (1.0, 1e-3):  # it is not the size of the gradient that counts
        control = loss_scale * AttendAndExcite(thresholds={}, stop=0.3, relative_step=0.02 / loss_scale)
        run(pipe, control, "a cat and a frog", **size)
    assert relative_lengths(moves) == [[pytest.approx(0.02, rel=1e-4)]] * 2


@pytest.mark.parametrize("model", ["1.x", "XL", "bundled"])
def test_a_relative_step_goes_down(model):
    size = {"height": 64, "width": 64} if model == "bundled" else {}
    control = AttendAndExcite(thresholds={0: 0.9999}, max_refinement_steps=3, stop=0.3, relative_step=0.01)
    record = run(MODELS[model](), control, "a cat and a frog", **size).control.images[0]
    losses = record.steps[0].losses["attend-and-excite"]
    assert losses[-1] < losses[0]


def test_relative_and_absolute_parts_add_up(tiny_pipe, moves):
    relative, absolute = SynGen(relative_step=0.02, stop=0.3), AttendAndExcite(thresholds={}, stop=0.3, step_size=100)
    for control in (relative, absolute, 0.5 * relative + absolute):
        run(tiny_pipe, control)
    (first, _), (second, _), (both, _) = moves
    torch.testing.assert_close(both, 0.5 * first + second, rtol=1e-3, atol=1e-6)


WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
)


@pytest.fixture(scope="module")
def one_level():
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion(unet=tiny.unet(**tiny.ONE_LEVEL)))
    pipe.set_progress_bar_config(disable=True)
    return pipe


class DeviceReads(TorchDispatchMode):
    """Counts how often numbers computed with a module's weights are handed to Python, as if they were on a GPU."""

    def __init__(self, module):
        super().__init__()
        self.count, self.on_device = 0, weakref.WeakSet()
        for tensor in module.parameters():
            self.on_device.add(tensor.untyped_storage())

    def holds(self, tensor):
        return tensor.untyped_storage() in self.on_device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        result = func(*args, **(kwargs or {}))
        if any(map(self.holds, inputs)):
            masks = func is torch.ops.aten.index.Tensor and any(x.dtype == torch.bool for x in inputs[1:])
            self.count += func in WAITING or masks
            for output in tree_leaves(result):
                if isinstance(output, Tensor):
                    self.on_device.add(output.untyped_storage())
        return result


class ListReads(TorchFunctionMode):
    """Adds the ways to Python that pass by the dispatcher on a CPU."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.tolist, Tensor.numpy, Tensor.cpu) and self.reads.holds(args[0]):
            self.reads.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", ["default", "reference"])
@pytest.mark.parametrize("name", method_classes())
def test_the_device_is_read_at_most_twice_a_round(one_level, name, variant, monkeypatch):
    """Once at its end, and once before if an image looks first."""
    one_round, reads = Engine._round, DeviceReads(one_level.unet)
    per_round = []

    def counted(self, guided, latents, waiting):
        looks = any(image.request.only_looks for image in waiting)
        before = reads.count
        with ListReads(reads), reads:
            latents = one_round(self, guided, latents, waiting)
        per_round.append((reads.count - before, 1 + looks))
        return latents

    monkeypatch.setattr(Engine, "_round", counted)
    known, few = method_classes()[name]().settings(), {"max_refinement_steps": 2, "refinement_steps": 2}
    quick = {key: value for key, value in few.items() if key in known}
    control = create_method(name, stop=1.0, variant=variant, step_size=1.0, **quick)
    if variant == "reference" and not family_of(one_level).has_reference(control):
        pytest.skip("no published code of this method is for UNets")
    run(one_level, control, layout=LAYOUT if control.needs_layout else None, num_inference_steps=2)
    assert len(per_round) > 1
    assert all(found <= most for found, most in per_round)


@pytest.mark.parametrize("control", [LayoutGuidance(), LayoutGuidance() + 1.0 * AttendAndExcite(thresholds={0: 1.0})])
def test_a_move_that_is_not_finite_is_none(tiny_pipe, control, monkeypatch):
    def spoilt(*args):
        return attention_probabilities(*args) * float("nan")

    monkeypatch.setattr("attncontrol.attention.capture.attention_probabilities", spoilt)
    with pytest.warns(RuntimeWarning, match="image 0 is not finite at step 0 of 3"):
        output = run(tiny_pipe, control, layout=LAYOUT)
    steps = output.control.images[0].steps
    assert [(step.moved, step.refinements) for step in steps] == [(False, 0)] * 3
    assert len(steps[0].losses["layout-guidance"]) == 1
    assert torch.equal(output.images, run(tiny_pipe, None).images)
