"""CLIP image-text similarity: the full prompt, and the smallest over its subjects (A&E, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from attncontrol.evaluation.metrics.base import Picture, Score, subjects_of

CLIP_MODEL = "openai/clip-vit-base-patch16"
TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image showing {}")


class ClipEmbedder:
    """A CLIP model's normalised embeddings of images and texts: float32 [n, dim] on the CPU.

    `templates`: sentences a text is put into; their embeddings are averaged. Raises ValueError if there is no such
    model. (A&E averages over 80 templates for photographs; numbers compare only within one set of templates.)
    """

    def __init__(self, model: str = CLIP_MODEL, device: str = "cpu", templates: Sequence[str] = TEMPLATES) -> None:
        try:
            self.model = CLIPModel.from_pretrained(model).eval().to(device)
            self.processor = CLIPProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot load the CLIP model {model!r}: {error}") from error
        self.device, self.templates = device, tuple(templates)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Picture]) -> Tensor:
        inputs = self.processor(images=[p.image.convert("RGB") for p in pictures], return_tensors="pt").to(self.device)
        pooled = self.model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
        return _normalised(self.model.visual_projection(pooled))

    def prompts(self, texts: Sequence[str]) -> Tensor:
        """Texts put into the templates."""
        embeddings = [self.texts([template.format(text) for template in self.templates]) for text in texts]
        return torch.stack([_normalised(embedding.mean(0, keepdim=True))[0] for embedding in embeddings])

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


def _normalised(embeddings: Tensor) -> Tensor:
    return torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu()
