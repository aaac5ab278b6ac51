"""diffusers' AutoPipelines must accept a controlled pipeline as they accept the stock one it stands for.

Today: "AutoPipeline can't find a pipeline linked to StableDiffusionAttentionControlPipeline".
"""

from diffusers import AutoPipelineForImage2Image

from attncontrol import AttentionControlPipeline

pipe = AttentionControlPipeline.from_pretrained("emoji")
assert type(AutoPipelineForImage2Image.from_pipe(pipe)).__name__ == "StableDiffusionImg2ImgPipeline"
