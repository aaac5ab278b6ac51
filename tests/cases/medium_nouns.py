"""What a picture is made in ("a photo of ...") is no thing to be drawn, and must be no subject by default.

Attend-and-Excite follows the most neglected subject, and that is then the word "photo": with the bundled model, 16
seeds, 20 steps, "a photo of a lion and a clock" shows both 1 time plain, 1 time under control, and 12 times with
subjects=["lion", "clock"]. All 553 prompts of GenEval begin so.
"""

import sys

from transformers import AutoTokenizer

from attncontrol.models import resolve
from attncontrol.prompt import structure_of

tokenizer = AutoTokenizer.from_pretrained(resolve("emoji"), subfolder="tokenizer")
expected = {
    "a photo of a lion and a clock": ["lion", "clock"],
    "a photo of a bench": ["bench"],
    "an oil painting of a cat": ["cat"],
    "a photo": ["photo"],  # nothing else to draw
    "a painting next to a bee": ["painting", "bee"],  # here it is a thing
}
wrong = 0
for prompt, nouns in expected.items():
    found = [entity.noun.text for entity in structure_of(prompt, tokenizer).entities]
    if found != nouns:
        wrong += 1
        print(f"{prompt!r}: {found}, expected {nouns}")
sys.exit(bool(wrong))
