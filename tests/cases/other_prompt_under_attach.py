"""A pipeline that is called with another prompt than `attach` was given must not be guided by the old tokens silently.

In a loop over prompts inside one `with` block the second prompt is guided at the first one's token positions (the
defect of SynGen's published demo). An error or a warning is due.
"""

import sys
import warnings

import torch

from attncontrol import AttentionControlPipeline, attach

pipe = AttentionControlPipeline.from_pretrained("emoji")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        with attach(pipe, "attend-and-excite", prompt="a cat and a frog") as control:
            pipe("a red crown and a blue bow", num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    except (ValueError, RuntimeError):
        sys.exit(0)
print("guided:", control.record.images[0].subjects)
sys.exit(not caught)
