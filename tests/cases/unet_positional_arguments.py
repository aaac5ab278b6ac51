"""Under control the UNet must get its arguments as the pipeline gave them: positional ones positional.

diffusers calls unet(sample, timestep, ...). tomesd's hook reads args[0], DeepCache's wrapper args[1]: with either,
every controlled call dies with "IndexError: tuple index out of range", where the plain call works.
"""

import torch

from attncontrol import AttentionControlPipeline

pipe = AttentionControlPipeline.from_pretrained("emoji")
sizes = []
pipe.unet.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape))
arguments = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
pipe("a cat and a frog", **arguments)
plain = len(sizes)
pipe("a cat and a frog", control="attend-and-excite", **arguments)
assert len(sizes) >= 2 * plain, "the hook saw fewer calls than the pipeline makes"
