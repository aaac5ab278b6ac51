"""CLIP image-text similarity: the full prompt, and the smallest over its subjects.

See docs/methods/attend_and_excite.md, section 9.

As in the evaluation code of Attend-and-Excite: CLIP ViT-B/16, texts in the 80 sentences for ImageNet of CLIP (Radford
et al., 2021, section 3.1.4), of which the embeddings are averaged.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from attncontrol.evaluation.metrics.base import Picture, Score, subjects_of

CLIP_MODEL = "openai/clip-vit-base-patch16"
TEMPLATES = tuple(Path(__file__).with_name("imagenet_templates.txt").read_text(encoding="utf-8").splitlines())
KEPT_TEXTS = 1024  # their embeddings, since a prompt comes again with every seed and method


class ClipEmbedder:
    """A CLIP model's normalised embeddings of images and texts: float32 [n, dim] on the CPU.

    `templates`: sentences a text is put into; their embeddings are averaged. Raises ValueError if there is no such
    model.
    """

    def __init__(self, model: str = CLIP_MODEL, device: str = "cpu", templates: Sequence[str] = TEMPLATES) -> None:
        try:
            self.model = CLIPModel.from_pretrained(model).eval().to(device)
            self.processor = CLIPProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot load the CLIP model {model!r}: {error}") from error
        self.device, self.templates = device, tuple(templates)
        self._prompt = functools.lru_cache(KEPT_TEXTS)(self._embed_prompt)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Picture]) -> Tensor:
        """CLIP's embeddings of pictures, of length 1: [pictures, dim]."""
        inputs = self.processor(images=[p.image.convert("RGB") for p in pictures], return_tensors="pt").to(self.device)
        pooled = self.model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
        return _normalised(self.model.visual_projection(pooled))

    def prompts(self, texts: Sequence[str]) -> Tensor:
        """Texts put into the templates."""
        return torch.stack([self._prompt(text) for text in texts])

    def _embed_prompt(self, text: str) -> Tensor:
        embeddings = self.texts([put_into(template, text) for template in self.templates])
        return _normalised(embeddings.mean(0, keepdim=True))[0]

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts as they are, cut to the model's length."""
        length = self.model.config.text_config.max_position_embeddings
        inputs = self.processor.tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True, max_length=length
        ).to(self.device)
        outputs = self.model.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return _normalised(self.model.text_projection(outputs.pooler_output))


class ClipSimilarity:
    """Cosine similarities of the image with the prompt and with each of its subjects."""

    columns: ClassVar[dict[str, str]] = {
        "clip_full": "CLIP similarity of image and prompt",
        "clip_min_subject": "smallest CLIP similarity of image and a subject",
    }

    def __init__(self, embedder: ClipEmbedder) -> None:
        self.embedder = embedder

    def score(self, pictures: Sequence[Picture]) -> list[Score]:
        """Similarities in -1..1; no smallest one where the prompt has no subject."""
        return [self._score(*item) for item in zip(self.embedder.images(pictures), pictures, strict=True)]

    def _score(self, image: Tensor, picture: Picture) -> Score:
        full, *parts = (self.embedder.prompts([picture.prompt, *subjects_of(picture.prompt)]) @ image).tolist()
        return {"clip_full": full, "clip_min_subject": min(parts, default=None)}


def put_into(template: str, text: str) -> str:
    """A text in a template, without the template's article where the text brings its own ("a photo of a cat")."""
    if re.match(r"(?:a|an|the)\s", text, re.IGNORECASE):
        template = re.sub(r"\b(?:a|the) \{\}", "{}", template)
    return template.replace("{}", text)


def _normalised(embeddings: Tensor) -> Tensor:
    return torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu()
