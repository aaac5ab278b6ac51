"""Embeddings of more than 77 positions (compel's long prompts): every position of their words may be a subject.

Maps exist for all positions, yet indices beyond 75 are refused: "indices run from 1 to 75".
"""

import torch

from attncontrol import AttentionControlPipeline

pipe = AttentionControlPipeline.from_pretrained("emoji")
first, empty = pipe.encode_prompt("a cat", "cpu", 1, True)
second, _ = pipe.encode_prompt("a frog", "cpu", 1, True)
long, negative = torch.cat([first, second], 1), torch.cat([empty, empty], 1)
output = pipe(
    prompt_embeds=long,
    negative_prompt_embeds=negative,
    control="attend-and-excite",
    subjects=[2, first.shape[1] + 2],
    num_inference_steps=3,
    generator=torch.Generator().manual_seed(0),
)
assert len(output.control.images[0].subjects) == 2
