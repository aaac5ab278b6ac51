"""Editing an image by changing its prompt: prompt-to-prompt (Hertz et al., ICLR 2023, arXiv 2208.01626)."""

from attncontrol.editing.alignment import Change, PromptAlignment, align_prompts
from attncontrol.editing.pipeline import EditingMixin, EditOutput

__all__ = ["Change", "EditOutput", "EditingMixin", "PromptAlignment", "align_prompts"]
