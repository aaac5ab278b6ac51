"""The text side: a T5 tokenizer of the world's words, a T5 encoder that sees one token to each side, and CLIP.

So "bow" knows "red" and "red" knows "bow", and no word knows of another thing. FLUX gives all text the same position:
its slots are a bag of words.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from apps.emoji.text import FUNCTION_WORDS, WIDTH, tokenize
from apps.emoji.vocabulary import COLOURS, NAMES
from attncontrol.models import resolve

FAR = -1e4  # position bias of tokens further away than one; nothing passes, so no gradient ever changes it
NEAR = (0, 1, 17)  # the buckets of the token itself, one to the left, one to the right
WORDS = (*NAMES, *COLOURS, *FUNCTION_WORDS)


def build_tokenizer() -> T5TokenizerFast:
    """Unigram: every word of the world is one token, capitalised too; other words fall into letters."""
    characters = [chr(code) for code in range(33, 127)]
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -8.0}
    pieces |= {"▁" + word: -1.0 for word in WORDS} | {",": -2.0, ".": -2.0}
    pieces |= {"▁" + word.capitalize(): -1.0 for word in WORDS}
    for score, start in ((-10.0, ""), (-11.0, "▁")):
        pieces |= {start + c: score for c in characters if start + c not in pieces}
    return T5TokenizerFast(vocab=list(pieces.items()), extra_ids=0, model_max_length=512)


def token_ids(tokenizer: T5TokenizerFast, words: tuple[str, ...]) -> Tensor:
    """The token of each word, (len(words),)."""
    return torch.tensor(tokenizer(list(words), add_special_tokens=False).input_ids)[:, 0]


def build_encoder(size: int) -> T5EncoderModel:
    """One layer. The pipeline gives T5 no mask: seeing neighbours alone, states depend on no padding further away."""
    config = T5Config(
        vocab_size=size, d_model=WIDTH, d_kv=32, d_ff=2 * WIDTH, num_layers=1, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, use_cache=False,
    )  # fmt: skip
    model = T5EncoderModel(config)
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    far = torch.ones(len(bias), dtype=torch.bool)
    far[[*NEAR]] = False
    with torch.no_grad():
        bias[far] = FAR
    return model


@torch.no_grad()
def settle(encoder: T5EncoderModel, tokenizer: T5TokenizerFast, seen: Tensor) -> None:
    """Gives tokens that training never saw a meaning: "Cat" that of "cat", others that of "with", which has none."""
    embedding = encoder.shared.weight
    unseen = torch.ones(len(embedding), dtype=torch.bool)
    unseen[seen.long()] = False
    embedding[unseen] = embedding[token_ids(tokenizer, ("with",))]
    capitals = token_ids(tokenizer, tuple(word.capitalize() for word in WORDS))
    embedding[capitals] = embedding[token_ids(tokenizer, WORDS)]


def load_clip() -> tuple[CLIPTextModel, CLIPTokenizer]:
    """The text tower of the bundled `emoji`, for FLUX's pooled vector, which is taught to mean nothing."""
    folder = Path(resolve("emoji"))
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    return encoder.eval().requires_grad_(False), CLIPTokenizer.from_pretrained(folder / "tokenizer")


@torch.no_grad()
def pooled(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The pooled vectors of captions as FluxPipeline computes them, (N, WIDTH)."""
    return torch.cat([encoder(ids).pooler_output for ids in tokenize(tokenizer, captions).split(512)])
