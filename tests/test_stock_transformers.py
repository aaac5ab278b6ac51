"""`attach` with stock pipelines around transformers: every row of the tables in tests/stock/transformers.py."""

import pytest
import torch

from attncontrol import AttendAndExcite, AttentionControlPipeline, attach
from tests.stock.transformers import TRANSFORMER_ADDITIONS, TRANSFORMER_PIPELINES, TRANSFORMER_SCHEDULERS
from tests.test_transformers import left_behind

CONTROL = AttendAndExcite(thresholds={0: 0.9}, max_refinement_steps=1, relative_step=0.003)
FAST = (
    "FluxKontextPipeline",
    "FluxFillPipeline",
    "StableDiffusion3Pipeline, skip-layer guidance",
    "PixArtSigmaPAGPipeline",
    "Flux2Pipeline, with a reference",
    "ZImagePipeline, cfg_truncation",
    "LoRA, Qwen-Image",
    "IP-Adapter, FLUX.1",
    "EulerDiscreteScheduler, PixArt",
)


def run(pipe, case):
    torch.manual_seed(0)  # for what a pipeline draws without its generator
    call = {"num_inference_steps": 3, "output_type": "latent", **case.call}
    return pipe(prompt=case.prompt, generator=torch.Generator().manual_seed(0), **call).images


def rows():
    cases = (*TRANSFORMER_PIPELINES, *TRANSFORMER_ADDITIONS, *TRANSFORMER_SCHEDULERS)
    return [pytest.param(case, id=case.name, marks=() if case.name in FAST else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("case", rows())
def test_control_acts_and_leaves_no_trace(case):
    pipe = case.build()
    plain = run(pipe, case)
    before = left_behind(pipe)
    with attach(pipe, 0 * CONTROL, prompt=case.prompt):
        assert torch.equal(run(pipe, case), plain), "weight 0 changes nothing"
    with attach(pipe, CONTROL, prompt=case.prompt) as control:
        guided = run(pipe, case)
    assert left_behind(pipe) == before
    steps = control.record.images[0].steps
    assert steps[0].moved and steps[0].refinements == 1
    losses = steps[0].losses["attend-and-excite"]
    assert losses[1] < losses[0]
    assert torch.isfinite(guided).all()
    assert (guided - plain).norm() > 1e-4 * plain.norm()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["QwenImageEditPipeline", "QwenImageEditPlusPipeline"])
def test_words_behind_a_picture_stand_where_the_text_encoder_read_them(name):
    case = next(case for case in TRANSFORMER_PIPELINES if case.name == name)
    pipe, seen = case.build(), []
    pipe.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0]), with_kwargs=True
    )
    with attach(pipe, CONTROL, prompt=case.prompt) as control:
        run(pipe, case)
    for word, positions in control.record.images[0].subjects.items():
        assert pipe.tokenizer.decode([seen[0][positions[0] - pipe.tokenizer_max_length]]).strip() == word


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.name, marks=() if case.name == "FluxControlNetImg2ImgPipeline" else pytest.mark.slow
        )
        for case in TRANSFORMER_PIPELINES
        if "," not in case.name and "QwenImageEdit" not in case.name  # whose tiny processor reads no images: no file
    ],
)
def test_a_saved_pipeline_is_loaded_in_its_controlled_form(case, tmp_path):
    """Image-to-image, inpainting, ControlNet, editing ones as well: the checkpoint names its stock pipeline."""
    pipe = case.build()
    pipe.save_pretrained(tmp_path)
    stock = type(pipe).from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    plain = run(stock, case)
    loaded = AttentionControlPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.stock_name == case.name and isinstance(loaded, type(pipe))
    assert torch.equal(run(loaded, case), plain)
    torch.manual_seed(0)
    call = {"num_inference_steps": 3, "output_type": "latent", "control": CONTROL, **case.call}
    output = loaded(prompt=case.prompt, generator=torch.Generator().manual_seed(0), **call)
    assert output.control.images[0].steps[0].moved and not torch.equal(output.images, plain)
