"""The shipped checkpoints, and the UNet model: complete, small, loadable by plain diffusers without a network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from apps.emoji.scenes import Thing, render
from attncontrol.losses.combining import resolve_control
from attncontrol.models import BUNDLED, default_call, default_guidance_scale, resolve, tuned_settings

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def folder():
    return Path(resolve("emoji"))


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_other_names_are_left_alone(tmp_path):
    assert resolve("runwayml/some-model") == "runwayml/some-model"
    assert resolve(tmp_path) == str(tmp_path)
    assert tuned_settings(tmp_path) == default_call(tmp_path) == {}


@pytest.mark.parametrize("name", BUNDLED)
def test_sizes_and_format(name):
    folder = Path(resolve(name))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40 * MEGABYTE
    assert max(path.stat().st_size for path in files) < 16 * MEGABYTE
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert (folder / "README.md").read_text().startswith(f"# {name}")


@pytest.mark.parametrize("name", BUNDLED)
def test_settings_name_methods_and_their_options(name):
    tuned = tuned_settings(resolve(name))
    assert tuned
    assert all(resolve_control(method, tuned).parts for method in tuned)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_guidance_scale_is_the_calls_by_name_and_by_folder(name):
    scale = default_call(name)["guidance_scale"]
    assert default_guidance_scale(name) == default_guidance_scale(resolve(name)) == scale


def test_everything_is_float32_after_loading(pipe):
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    assert pipe.safety_checker is None and pipe.scheduler.config.prediction_type == "v_prediction"


def test_text_enters_at_16x16_and_8x8(pipe):
    cross = {name.split(".attentions")[0] for name in pipe.unet.attn_processors if "attn2" in name}
    assert cross == {"down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"}


def test_a_word_slot_knows_nothing_of_the_other_object(pipe):
    def states(text):
        return pipe.encode_prompt(text, "cpu", 1, False)[0][0]

    first, second = states("a cat and a red bow"), states("a dog and a red bow")
    change = (first - second).square().mean(-1)
    own = change[2]  # cat, dog
    assert change[[1, 3, 4]].max() < 0.02 * own  # a, and, a
    assert change[[5, 6]].max() < 0.05 * own  # red, bow
    assert change[8:].max() < 0.02 * own  # padding


def test_the_autoencoder_reproduces_a_scene(pipe):
    array, _ = render(np.random.default_rng(11), [Thing("cat"), Thing("balloon", "purple")])
    pixels = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mode()
        drawn = pipe.vae.decode(latents).sample
    assert 0.6 < float(latents.std()) < 1.6
    assert float(-10 * torch.log10(((drawn.clamp(-1, 1) - pixels) / 2).square().mean())) > 20


def test_same_seed_same_picture(pipe):
    def draw():
        return pipe(
            "a red car", num_inference_steps=4, generator=torch.Generator().manual_seed(1), output_type="np"
        ).images

    first, second = draw(), draw()
    assert first.shape == (1, 64, 64, 3)
    assert np.array_equal(first, second)


def test_image_to_image_works(pipe):
    from diffusers import StableDiffusionImg2ImgPipeline

    array, _ = render(np.random.default_rng(12), [Thing("frog")])
    again = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    result = again(
        "a frog", Image.fromarray(array), strength=0.2, num_inference_steps=10,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(result - array / 255).mean() < 0.12
