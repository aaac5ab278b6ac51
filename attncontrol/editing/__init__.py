"""Editing pictures by changing their prompts: inversion, prompt-to-prompt and Dynamic Prompt Learning.

Prompt-to-prompt: Hertz et al., ICLR 2023, arXiv 2208.01626. Null-text inversion: Mokady et al., CVPR 2023, arXiv
2211.09794. Dynamic Prompt Learning: Wang et al., NeurIPS 2023, arXiv 2309.15664. docs/editing.md shows their use.
"""

from attncontrol.editing.alignment import Change, PromptAlignment, align_prompts
from attncontrol.editing.dynamic_prompt_learning import DynamicPromptLearning
from attncontrol.editing.inversion import Inversion
from attncontrol.editing.null_text import NullText
from attncontrol.editing.pipeline import EditingMixin, EditOutput

__all__ = [
    "Change",
    "DynamicPromptLearning",
    "EditOutput",
    "EditingMixin",
    "Inversion",
    "NullText",
    "PromptAlignment",
    "align_prompts",
]
