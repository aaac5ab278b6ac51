"""Guided sampling: when and how far the latents of each image move, and what that costs."""
