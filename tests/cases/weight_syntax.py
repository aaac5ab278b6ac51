"""Weights in a prompt's text, as A1111 and compel write them, mean nothing to diffusers: say so, once.

Today they silently go to the text encoder as letters, and the parser takes them for words: "cat:1.3" of five tokens is
guided, and of "cat++ and frog--" only "cat++". A warning must name compel (prompt_embeds with `attach(prompt=...)` of
the plain words), or the weights must be read. A prompt without such syntax must give no warning.
"""

import sys
import warnings

from attncontrol import AttentionControlPipeline
from attncontrol.prompt import structure_of

tokenizer = AttentionControlPipeline.from_pretrained("emoji").tokenizer
wrong = 0
for prompt, expected in {
    "a (cat:1.3) and a frog": True,
    "a cat++ and a frog--": True,
    "a ((cat)) and a [frog]": True,
    "a cat (black) and a frog": False,
    "a cat and a frog": False,
}.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [entity.noun.text for entity in structure_of(prompt, tokenizer).entities]
    clean = found == ["cat", "frog"]
    if bool(caught) != expected and not (expected and clean):
        wrong += 1
        print(f"{prompt!r}: guided {found}, warnings: {[str(w.message) for w in caught]}")
sys.exit(bool(wrong))
