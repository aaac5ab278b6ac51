"""Names of classes as layout generators write them must find their words: "potted-plant", "fire_hydrant".

LayoutGPT's published GPT-4 layouts have them: 75 of 330 sampled ones are refused, with the right name as a suggestion.
(Attention Refocusing's published code takes underscores and digits out of names.)
"""

import sys

from attncontrol import AttentionControlPipeline
from attncontrol.layout import place, read_layout
from attncontrol.prompt import structure_of

tokenizer = AttentionControlPipeline.from_pretrained("emoji").tokenizer
box = [0.1, 0.1, 0.5, 0.9]
wrong = 0
for prompt, name in (
    ("a potted plant to the right of a toilet", "potted-plant"),
    ("there are two fire hydrants in the image", "fire-hydrant"),
    ("a grey cat next to a shelf with a blue bottle", "blue_bottle"),
):
    try:
        place(read_layout({name: box}), structure_of(prompt, tokenizer), tokenizer)
    except ValueError as error:
        wrong += 1
        print(error)
sys.exit(bool(wrong))
