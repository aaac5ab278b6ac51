"""BLIP caption text-text similarity: how near the prompt is to what a captioner sees.

See docs/methods/attend_and_excite.md, section 9.

As in the evaluation code of Attend-and-Excite, which takes the captions as LAVIS makes them: continuing "a picture
of", beam search with 3 beams, 10 to 30 tokens of which that beginning is a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from transformers import BlipForConditionalGeneration, BlipProcessor

from attncontrol.evaluation.metrics.base import Picture, Score
from attncontrol.evaluation.metrics.clip_similarity import ClipEmbedder

BLIP_MODEL = "Salesforce/blip-image-captioning-base"
BEGINNING = "a picture of"
SEARCH = {"num_beams": 3, "min_length": 10, "max_length": 30}


class BlipCaption:
    """Cosine similarity, by CLIP's text encoder, of the prompt (in the templates) and BLIP's caption (as it is)."""

    columns: ClassVar[dict[str, str]] = {"blip_caption_similarity": "CLIP similarity of prompt and BLIP's caption"}

    def __init__(self, embedder: ClipEmbedder, model: str = BLIP_MODEL, device: str = "cpu") -> None:
        """Raises ValueError if there is no such BLIP model."""
        try:
            self.model = BlipForConditionalGeneration.from_pretrained(model).eval().to(device)
            self.processor = BlipProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot load the BLIP model {model!r}: {error}") from error
        self.embedder, self.device = embedder, device

    def score(self, pictures: Sequence[Picture]) -> list[Score]:
        """Similarities in -1..1, and the captions."""
        captions = self.captions(pictures)
        seen = self.embedder.texts(captions)
        asked = self.embedder.prompts([picture.prompt for picture in pictures])
        return [
            {"blip_caption_similarity": similarity, "blip_caption": caption}
            for similarity, caption in zip((seen * asked).sum(-1).tolist(), captions, strict=True)
        ]

    @torch.inference_mode()
    def captions(self, pictures: Sequence[Picture]) -> list[str]:
        """What BLIP says the pictures show."""
        images = [picture.image.convert("RGB") for picture in pictures]
        inputs = self.processor(images, [BEGINNING] * len(images), return_tensors="pt").to(self.device)
        tokens = self.model.generate(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"], **SEARCH)
        new = tokens[:, inputs["input_ids"].shape[1] - 1 :]  # the end of the beginning is cut off
        return [text.strip() for text in self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
