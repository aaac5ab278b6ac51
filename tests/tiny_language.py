"""Tokenizers of the kinds that diffusion transformers have, with small vocabularies, and tiny random text encoders."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable

import torch
from diffusers import Lumina2Pipeline, QwenImageEditPipeline, QwenImagePipeline, SanaPipeline
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from tests import tiny

LETTERS = "abcdefghijklmnopqrstuvwxyz▁,.'-"
QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
MISTRAL_SPECIALS = ("<pad>", "<s>", "</s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]")
QWEN_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
MISTRAL_CHAT = (
    "<s>{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content[0].text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ m.content[0].text }}[/INST]{% endif %}{% endfor %}"
)


def unigram(specials: Iterable[str], more: Iterable[str] = (), **settings) -> PreTrainedTokenizerFast:
    """A SentencePiece unigram: WORDS and `more` are one piece each, others fall into letters."""
    words = [("▁" + word, -2.0) for word in dict.fromkeys((*tiny.WORDS, *more))]
    letters = [(letter, -6.0) for letter in LETTERS]
    vocabulary = [*((special, 0.0) for special in specials), ("<unk>", -10.0), *words, *letters]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=[piece for piece, _ in vocabulary].index("<unk>")))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **settings)


@functools.cache
def t5_tokenizer() -> PreTrainedTokenizerFast:
    """T5's kind: no start token, an end token."""
    made = unigram(("<pad>", "</s>"), pad_token="<pad>", eos_token="</s>", model_max_length=64)
    end = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.backend_tokenizer.post_processor = end
    return made


@functools.cache
def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Gemma's kind: a start token, no end token; the words of Sana's instruction are one piece each."""
    words = " ".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default).split()
    made = unigram(("<pad>", "<bos>"), words, pad_token="<pad>", bos_token="<bos>", model_max_length=1024)
    start = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    made.backend_tokenizer.post_processor = start
    return made


def byte_level(specials: Iterable[str], texts: Iterable[str], **settings) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which the words of `texts` and WORDS are one piece each, others fall into bytes."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(QWEN_WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces = [piece for text in (*texts, " ".join(("", *tiny.WORDS))) for piece, _ in split.pre_tokenize_str(text)]
    vocabulary = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *tiny.WORDS, *pieces])
    core = Tokenizer(models.BPE(dict(zip(vocabulary, range(10_000), strict=False)), [], ignore_merges=True))
    core.pre_tokenizer, core.decoder = split, decoders.ByteLevel()
    core.add_special_tokens([AddedToken(special, normalized=False) for special in specials])
    return PreTrainedTokenizerFast(tokenizer_object=core, **settings)


@functools.cache
def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's kind: no special tokens of its own, a chat template, one piece for each word of the templates."""
    texts = []
    for cls in (QwenImagePipeline, QwenImageEditPipeline):
        template = cls(*[None] * (5 if cls is QwenImagePipeline else 6)).prompt_template_encode
        for special in QWEN_SPECIALS:
            template = template.replace(special, "{}")
        texts += template.split("{}")
    settings = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "model_max_length": 4096}
    return byte_level(QWEN_SPECIALS, texts, chat_template=QWEN_CHAT, **settings)


@functools.cache
def lumina_tokenizer() -> PreTrainedTokenizerFast:
    """Gemma's kind, the words of Lumina 2's system prompt one piece each."""
    words = f"{Lumina2Pipeline(None, None, None, None, None).system_prompt} <Prompt Start>".split()
    made = unigram(("<pad>", "<bos>"), words, pad_token="<pad>", bos_token="<bos>", model_max_length=1024)
    start = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    made.backend_tokenizer.post_processor = start
    return made


@functools.cache
def glm_tokenizer() -> PreTrainedTokenizerFast:
    """GLM's kind: filled on the left, two start tokens, no end token."""
    settings = {"pad_token": "<pad>", "padding_side": "left", "model_max_length": 4096}
    made = byte_level(("<pad>", "[gMASK]", "<sop>"), [], **settings)
    starts = [(special, made.convert_tokens_to_ids(special)) for special in ("[gMASK]", "<sop>")]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=starts
    )
    return made


@functools.cache
def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Mistral's kind: filled on the left, a start token, which its chat template writes as well."""
    settings = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "padding_side": "left"}
    made = byte_level(
        MISTRAL_SPECIALS, [SYSTEM_MESSAGE], chat_template=MISTRAL_CHAT, model_max_length=4096, **settings
    )
    start = made.convert_tokens_to_ids("<s>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    return made


@functools.cache
def bert_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's kind: word pieces between a start and an end token."""
    letters = [letter for letter in LETTERS if letter.isalpha()]
    pieces = dict.fromkeys(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *tiny.WORDS, *letters, *(f"##{x}" for x in letters)))
    core = Tokenizer(models.WordPiece(dict(zip(pieces, range(len(pieces)), strict=True)), unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=77)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def bert_encoder(width: int = 32) -> BertModel:
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=len(bert_tokenizer()), hidden_size=width, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=77,
    )  # fmt: skip
    return BertModel(config).eval()


def t5_encoder(width: int = 32) -> T5EncoderModel:
    torch.manual_seed(4)
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def sizes(tokenizer: PreTrainedTokenizerFast, width: int) -> dict:
    return {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    }  # fmt: skip


def qwen3(tokenizer: PreTrainedTokenizerFast, width: int = 32) -> Qwen3ForCausalLM:
    """Stands for every decoder whose hidden states are text: Qwen 2.5 and 3, Mistral."""
    torch.manual_seed(4)
    return Qwen3ForCausalLM(Qwen3Config(**sizes(tokenizer, width))).eval()


def gemma(tokenizer: PreTrainedTokenizerFast) -> Gemma2Model:
    torch.manual_seed(4)
    return Gemma2Model(Gemma2Config(**sizes(tokenizer, 32))).eval()
