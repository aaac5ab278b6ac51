"""A learned token in angle brackets, the usual name of a textual inversion, is a subject by default like any noun.

The README's table says so. Today "a <toy> and a frog" guides only the frog, silently; subjects=["<toy>"] works.
"""

import sys

import torch

from attncontrol import AttentionControlPipeline
from attncontrol.prompt import structure_of

pipe = AttentionControlPipeline.from_pretrained("emoji")
width = pipe.text_encoder.config.hidden_size
pipe.load_textual_inversion(torch.randn(2, width), token="<toy>")
wrong = 0
for prompt, expected in {
    "a <toy> and a frog": ["<toy>", "frog"],
    "a <toy> with a red hat": ["<toy>", "hat"],
    "a frog next to <toy>": ["frog", "<toy>"],
}.items():
    found = [entity.noun.text for entity in structure_of(prompt, pipe.tokenizer).entities]
    if found != expected:
        wrong += 1
        print(f"{prompt!r}: {found}, expected {expected}")
sys.exit(bool(wrong))
