"""CLIP tokenizers for tests: real code, with a vocabulary that yields the real pieces of the golden prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, PreTrainedTokenizer

Word = tuple[str, ...]
GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> list[dict]:
    """The records of a golden file."""
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


def clip_tokenizer(words: Iterable[Word], max_length: int = 77) -> CLIPTokenizer:
    """A CLIPTokenizer that splits exactly the given words as given, and most others into letters."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = learn_merges(words)
    vocab = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    vocab += dict.fromkeys("".join(pair) for pair in merges)
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(vocab)}, merges=merges, model_max_length=max_length)


def learn_merges(words: Iterable[Word]) -> list[tuple[str, str]]:
    """Byte-pair merges that build every piece of every word and never join two pieces."""
    state = [[(s, n) for n, piece in enumerate(word) for s in symbols(piece)] for word in sorted({*words})]
    merges: list[tuple[str, str]] = []
    while True:
        inside, across = [], set()
        for word in state:
            for (a, m), (b, n) in pairwise(word):
                if m == n:
                    inside.append((a, b))
                else:
                    across.add((a, b))
        pair = next((pair for pair in inside if pair not in across), None)
        if pair is None:
            assert not inside
            return merges
        merges.append(pair)
        for word in state:
            i = 0
            while i + 1 < len(word):
                if (word[i][0], word[i + 1][0]) == pair:
                    word[i : i + 2] = [("".join(pair), word[i][1])]
                i += 1


def symbols(piece: str) -> list[str]:
    """The letters of a piece, the last one with its end-of-word mark."""
    body = piece.removesuffix("</w>")
    return [*body[:-1], piece[len(body) - 1 :]]


def words_of(clip_tokens: list[str]) -> list[Word]:
    """The words of a token list, each as its pieces."""
    words, pieces = [], []
    for piece in clip_tokens[1:-1]:
        pieces.append(piece)
        if piece.endswith("</w>"):
            words.append(tuple(pieces))
            pieces = []
    return words


@cache
def golden_tokenizer(max_length: int = 77) -> CLIPTokenizer:
    """The tokenizer of all golden prompts."""
    files = ("prompt_tokens.jsonl", "syngen/groupings.jsonl", "ebama/groupings.jsonl")
    records = [record for name in files for record in golden(name)]
    return clip_tokenizer((word for r in records for word in words_of(r["clip_tokens"])), max_length)


class SlowTokenizer(PreTrainedTokenizer):
    """A slow tokenizer that yields the pieces of a fast one, as transformers 4's CLIPTokenizer does."""

    def __init__(self, fast: CLIPTokenizer):
        self.fast = fast
        super().__init__(
            bos_token="<|startoftext|>", eos_token="<|endoftext|>", model_max_length=fast.model_max_length
        )

    @property
    def vocab_size(self) -> int:
        return self.fast.vocab_size

    def get_vocab(self) -> dict[str, int]:
        return self.fast.get_vocab()

    def _tokenize(self, text: str) -> list[str]:
        return self.fast.tokenize(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.fast.convert_tokens_to_ids(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.fast.convert_ids_to_tokens(index)

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.bos_token_id, *token_ids_0, self.eos_token_id]
