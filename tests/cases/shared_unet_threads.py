"""Two threads, two pipelines that share the components but for the scheduler (diffusers' advice for servers).

Plain beside plain works. A controlled one beside any other: the other dies with the internal `ForwardTruncated`, and
the controlled image is another one, silently (differences of 120 to 194 of 255 from the one made alone). Either each
gets what it gets alone, or the second says clearly that the UNet is in use.
"""

import copy
import sys
import threading

import numpy as np
import torch

from attncontrol import AttentionControlPipeline

first = AttentionControlPipeline.from_pretrained("emoji")
parts = {**first.components, "scheduler": copy.deepcopy(first.scheduler)}
second = type(first)(**parts, requires_safety_checker=False)
results = {}


def draw(name, pipe, control):
    generator = torch.Generator().manual_seed(0)
    try:
        output = pipe("a cat and a frog", control=control, generator=generator, num_inference_steps=10)
        results[name] = np.asarray(output.images[0]).astype(int)
    except Exception as error:
        results[name] = error


draw("controlled, alone", first, "attend-and-excite")
draw("plain, alone", second, None)
threads = [
    threading.Thread(target=draw, args=("controlled", first, "attend-and-excite")),
    threading.Thread(target=draw, args=("plain", second, None)),
]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
wrong = 0
for name in ("controlled", "plain"):
    got, alone = results[name], results[f"{name}, alone"]
    if isinstance(got, Exception):
        if not isinstance(got, (ValueError, RuntimeError)) or not str(got):
            wrong += 1
            print(f"{name}: {got!r}")
    elif abs(got - alone).max() > 1:
        wrong += 1
        print(f"{name}: differs by {abs(got - alone).max()} from the image made alone")
sys.exit(bool(wrong))
