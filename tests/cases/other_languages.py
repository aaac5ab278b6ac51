"""A prompt that is not English cannot be parsed by an English parser: warn and name `subjects=`, or guide nothing.

Today "ein Hund und eine Katze" is one thing, "Katze", modified by "ein", "Hund", "und" and "eine": the binding methods
draw dog and cat into one place, without a word. An English prompt with a foreign name must give no warning.
"""

import sys
import warnings

from attncontrol import AttentionControlPipeline
from attncontrol.prompt import structure_of

tokenizer = AttentionControlPipeline.from_pretrained("emoji").tokenizer
wrong = 0
for prompt, english in {
    "ein Hund und eine Katze": False,
    "一只猫和一只青蛙": False,
    "a piñata and a café": True,
}.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        entities = structure_of(prompt, tokenizer).entities
    if english == bool(caught) and (english or entities):
        wrong += 1
        print(f"{prompt!r}:", [([m.text for m in e.modifiers], e.noun.text) for e in entities])
sys.exit(bool(wrong))
