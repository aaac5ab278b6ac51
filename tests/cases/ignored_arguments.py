"""A control that cannot be applied must not be dropped silently.

The stock Stable Diffusion pipeline swallows unknown arguments. So a misspelt `controls=`, `subject=` or `boxes=` gives
a plain image without a word, and so does `from_pretrained(..., custom_pipeline=...)`, whose result is the stock class.
"""

import pathlib
import sys
import tempfile

import torch

from attncontrol import AttentionControlPipeline

prompt, wrong = "a cat and a frog", 0
pipe = AttentionControlPipeline.from_pretrained("emoji")


def accepted(pipe, **arguments):
    try:
        pipe(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0), **arguments)
    except (TypeError, ValueError):
        return False
    return True


for arguments in (
    {"controls": "attend-and-excite"},
    {"control": "attend-and-excite", "subject": ["cat", "frog"]},
    {"control": "attend-and-excite", "boxes": {"cat": [0, 0, 0.5, 1]}},
):
    if accepted(pipe, **arguments):
        wrong += 1
        print("accepted silently:", arguments)
with tempfile.TemporaryDirectory() as folder:
    code = "from diffusers import StableDiffusionPipeline\n\n\nclass Mine(StableDiffusionPipeline):\n    pass\n"
    pathlib.Path(folder, "pipeline.py").write_text(code, encoding="utf-8")
    try:
        mine = AttentionControlPipeline.from_pretrained("emoji", custom_pipeline=folder, trust_remote_code=True)
    except ValueError:
        sys.exit(bool(wrong))
    output = mine(prompt, control="attend-and-excite", num_inference_steps=2)
    if getattr(output, "control", None) is None:
        wrong += 1
        print(f"from_pretrained(custom_pipeline=...) gave {type(mine).__name__}, which ignores control=")
sys.exit(bool(wrong))
