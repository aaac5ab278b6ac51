"""Tokenizer and CLIP of the emoji model, trained so that meaning sits in the words.

The text tower is one causal layer. Beside the contrastive loss it gets an invariance penalty: when one thing of a
caption is replaced, the states of all other words and of the padding must stay what they were. Content can then be
read from a thing's own words only (and from the end-of-text slot, on which the contrastive loss works).
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from .captions import Template, _colour, pair, template
from .scenes import Thing
from .vocabulary import ANIMALS, COLOURS, NAMES, OBJECTS

POSITIONS = 77  # as in Stable Diffusion
WIDTH = 128
FUNCTION_WORDS = "a an the and with of in on next to photo picture image painting two three one".split()
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in which each word of the world is one token, and every other text splits into pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*NAMES, *COLOURS, *FUNCTION_WORDS, ","]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([" ".join(words)] * 3, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    symbols = [START, END, PAD, *alphabet, *(letter + "</w>" for letter in alphabet), *(a + b for a, b in merges)]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=PAD, model_max_length=POSITIONS)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": POSITIONS, "projection_dim": WIDTH, **ids,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 64, "patch_size": 8, "projection_dim": WIDTH,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH, **ids))


def tokenize(tokenizer: CLIPTokenizer, captions: list[str], length: int = POSITIONS) -> torch.Tensor:
    """Token ids (len(captions), length), padded."""
    encoded = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoded.input_ids


def counterfactual(rng: np.random.Generator) -> tuple[str, str]:
    """Two captions that differ in one thing (its name, and its colour if it has one)."""
    form: Template = template(rng)
    things = pair(rng, ("animal+animal", "animal+object", "object+object")[rng.integers(3)])
    things = things[: 1 if rng.random() < 0.2 else 2]
    index = int(rng.integers(len(things)))
    name = (ANIMALS if things[index].name in ANIMALS else OBJECTS)[rng.integers(12)]
    changed: list[Thing] = list(things)
    changed[index] = replace(things[index], name=name, colour=things[index].colour and _colour(rng))
    return form.fill(things), form.fill(changed)


def invariance(model: CLIPModel, tokenizer: CLIPTokenizer, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Mean squared change of the states of the slots whose token did not change, the end-of-text slot left out."""
    ids = tokenize(tokenizer, [text for both in pairs for text in both])
    states = model.text_model(input_ids=ids).last_hidden_state
    first, second = states[0::2], states[1::2]
    same = (ids[0::2] == ids[1::2]) & (ids[0::2] != tokenizer.eos_token_id)
    return (first - second).square().mean(-1)[same].mean()


class Readers(torch.nn.Module):
    """Heads used in training only: what an image shows, and which word a word slot is."""

    def __init__(self) -> None:
        super().__init__()
        self.image = torch.nn.Linear(WIDTH, len(NAMES) + len(COLOURS))
        self.word = torch.nn.Linear(WIDTH, len(NAMES) + len(COLOURS))


def word_loss(readers: Readers, states: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of reading each content word from its own slot; labels map token ids to words, -1 for others."""
    target = labels[ids]
    return F.cross_entropy(readers.word(states[target >= 0]), target[target >= 0])


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    images: np.ndarray,
    captions: list[str],
    contents: torch.Tensor,
    seconds: float,
    batch: int = 96,
    freeze_text: bool = False,
    report=print,
) -> None:
    """Contrastive training for a given time; contents (N, 35) marks the names and colours of each picture."""
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    readers = Readers()
    labels = torch.full((len(tokenizer),), -1)
    for index, word in enumerate((*NAMES, *COLOURS)):
        labels[tokenizer(word).input_ids[1]] = index
    parts = [model.vision_model, model.visual_projection, readers]
    if not freeze_text:
        parts += [model.text_model, model.text_projection]
    parameters = [p for part in parts for p in part.parameters()] + [model.logit_scale]
    optimizer = torch.optim.AdamW(parameters, 1e-3, (0.9, 0.98), weight_decay=0.02)
    start, step = time.time(), 0
    while (passed := (time.time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 60) * min(1, 3 * (1 - passed))
        rows = np.sort(rng.choice(len(images), batch, replace=False))
        ids = tokenize(tokenizer, [captions[row] for row in rows], 24)
        text = model.text_model(input_ids=ids)
        image = model.vision_model(pixel_values=to_pixels(images[rows])).pooler_output
        a = F.normalize(model.text_projection(text.pooler_output), dim=-1)
        b = F.normalize(model.visual_projection(image), dim=-1)
        logits = model.logit_scale.exp().clamp(max=50) * a @ b.T
        diagonal = torch.arange(batch)
        contrast = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
        reading = F.binary_cross_entropy_with_logits(readers.image(image), contents[rows])
        loss = contrast + 5 * reading
        change = word = torch.zeros(())
        if not freeze_text:
            change = invariance(model, tokenizer, [counterfactual(rng) for _ in range(24)])
            word = word_loss(readers, text.last_hidden_state, ids, labels)
            loss = loss + 10 * change + word
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 25 == 0:
            top1 = (logits.argmax(1) == diagonal).float().mean()
            report(
                f"step {step} contrast {contrast:.3f} top1 {top1:.2f} reading {reading:.3f} "
                f"word {word:.3f} change {change:.5f}"
            )
