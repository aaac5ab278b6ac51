"""The metrics on small random models of the real classes."""

import re
import string
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
)

from attncontrol.evaluation.metrics import METRICS, Picture, create_metric, subjects_of
from attncontrol.evaluation.metrics.clip_similarity import ClipEmbedder, ClipSimilarity, put_into
from tests import tiny

SIZE = {"height": 32, "width": 32}


def picture(seed, prompt):
    pixels = torch.randint(0, 256, (40, 50, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Picture(Image.fromarray(pixels.numpy()), prompt)


PICTURES = [picture(0, "a red crown and a blue bow"), picture(1, "a cat")]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("clip"))
    tokens = tiny.tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**small, "vocab_size": len(tokens), "bos_token_id": tokens.bos_token_id,
                     "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id},
        vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size=SIZE, crop_size=SIZE)
    CLIPProcessor(image_processor=images, tokenizer=tokens).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        *string.ascii_lowercase,
        "picture",
        "of",
        "cat",
        "red",
        "crown",
        "bow",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokens = BertTokenizer(str(folder / "vocab.txt"))
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    torch.manual_seed(1)
    config = BlipConfig(
        text_config={**small, "vocab_size": len(words), "encoder_hidden_size": 32, "bos_token_id": 5,
                     "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0},
        vision_config={**small, "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size=SIZE), tokens).save_pretrained(folder)
    return str(folder)


def test_clip_similarity_is_the_models_own_cosine(clip_folder):
    embedder = ClipEmbedder(clip_folder, templates=("{}",))
    scores = ClipSimilarity(embedder).score(PICTURES)
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)
    texts = [PICTURES[0].prompt, *subjects_of(PICTURES[0].prompt)]
    assert texts[1:] == ["a red crown", "a blue bow"]
    how = {"padding": True, "truncation": True}  # said, since a tokenizer may keep what an earlier call said
    inputs = processor(text=texts, images=[PICTURES[0].image], return_tensors="pt", **how)
    with torch.inference_mode():
        cosines = (model(**inputs).logits_per_image[0] / model.logit_scale.exp()).tolist()
    assert scores[0]["clip_full"] == pytest.approx(cosines[0], abs=1e-5)
    assert scores[0]["clip_min_subject"] == pytest.approx(min(cosines[1:]), abs=1e-5)
    assert scores[1]["clip_full"] != scores[0]["clip_full"]


def test_clip_scores_do_not_depend_on_the_company(clip_folder):
    metric = create_metric("clip", clip_model=clip_folder)
    together, alone = metric.score(PICTURES), [metric.score([p])[0] for p in PICTURES]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_templates_are_averaged(clip_folder):
    embedder = ClipEmbedder(clip_folder, templates=("a photo of {}", "{}"))
    mean = (embedder.texts(["a photo of a cat", "a cat"])).mean(0)
    assert torch.allclose(embedder.prompts(["a cat"])[0], mean / mean.norm(), atol=1e-6)
    assert embedder.texts(["a cat " * 200]).isfinite().all()  # cut to the model's length
    templates = ClipEmbedder(clip_folder).templates
    assert len(set(templates)) == 80 and all(template.count("{}") == 1 for template in templates)


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        ("a photo of a {}.", "a cat and a frog", "a photo of a cat and a frog."),
        ("the {} in a video game.", "an apple", "an apple in a video game."),
        ("a photo of a large {}.", "a panda", "a photo of a large a panda."),
        ("a photo of a {}.", "anchovies", "a photo of a anchovies."),
    ],
)
def test_a_template_gives_way_to_the_articles_of_a_text(template, text, expected):
    assert put_into(template, text) == expected


def test_subjects_are_the_halves_that_attend_and_excite_compares():
    for file in ("animals", "animals_objects", "objects"):
        lines = (Path(__file__).parents[2] / "prompts" / f"{file}.txt").read_text().splitlines()
        prompts = [line for line in lines if line and not line.startswith("#")]
        assert len(prompts) in (66, 144)
        for prompt in prompts:
            assert subjects_of(prompt) == re.split(" and | with ", prompt)
    assert subjects_of("Two cats near the old barn") == ["cats", "the old barn"]


def test_blip_caption_and_its_similarity(clip_folder, blip_folder):
    metric = create_metric("blip", clip_model=clip_folder, blip_model=blip_folder)
    scores = metric.score(PICTURES)
    model, processor = BlipForConditionalGeneration.from_pretrained(blip_folder).eval(), metric.processor
    inputs = processor(images=PICTURES[0].image, text="a picture of", return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, num_beams=3, min_length=10, max_length=30)
    whole = processor.decode(tokens[0], skip_special_tokens=True)
    caption = scores[0]["blip_caption"]
    assert whole == f"[DEC] a picture of {caption}" and caption and 10 <= len(tokens[0]) <= 30
    embedder = ClipEmbedder(clip_folder)
    expected = float(embedder.texts([caption])[0] @ embedder.prompts([PICTURES[0].prompt])[0])
    assert scores[0]["blip_caption_similarity"] == pytest.approx(expected, abs=1e-5)


def test_oracle_scores_only_what_it_knows():
    scores = create_metric("oracle").score([picture(2, "a cat and a red car"), picture(3, "a spaceship")])
    assert set(scores[0]) == set(scores[1]) and set(scores[1].values()) == {None}
    assert scores[0]["oracle_right"] in (0.0, 1.0) and 0 <= scores[0]["oracle_objects"] <= 1


def test_unknown_metrics_and_models(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'oracle'"):
        create_metric("orcale")
    for name in ("clip", "blip"):
        with pytest.raises(ValueError, match="cannot load the CLIP model"):
            create_metric(name, clip_model=str(tmp_path))
    assert list(METRICS) == ["oracle", "clip", "blip"]
