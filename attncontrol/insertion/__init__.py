"""Putting a new thing into a scene without training: Add-it, on FLUX.1.

Tewel et al., "Add-it: Training-Free Object Insertion in Images With Pretrained Diffusion Models", ICLR 2025, arXiv
2411.07232. docs/editing.md shows its use.
"""

from attncontrol.insertion.masks import Segmenter
from attncontrol.insertion.pipeline import InsertionMixin, InsertOutput
from attncontrol.insertion.settings import AddIt

__all__ = ["AddIt", "InsertOutput", "InsertionMixin", "Segmenter"]
