"""What a prompt says is not there must not be excited ("no dog", "without cars"): leave it out, or say so.

With the bundled model, 16 seeds, 20 steps, Attend-and-Excite: "a lion, no clock" shows a clock 2 times plain and 12
times under control; "a cat but no dog" a dog 10 times plain and 15 times under control.
"""

import sys

from transformers import AutoTokenizer

from attncontrol.models import resolve
from attncontrol.prompt import structure_of

tokenizer = AutoTokenizer.from_pretrained(resolve("emoji"), subfolder="tokenizer")
expected = {
    "a lion, no clock": ["lion"],
    "a cat but no dog": ["cat"],
    "a street without cars": ["street"],
    "a lion with nothing but a crown": ["lion", "crown"],
}
wrong = 0
for prompt, nouns in expected.items():
    found = [entity.noun.text for entity in structure_of(prompt, tokenizer).entities]
    if found != nouns:
        wrong += 1
        print(f"{prompt!r}: {found}, expected {nouns}")
sys.exit(bool(wrong))
