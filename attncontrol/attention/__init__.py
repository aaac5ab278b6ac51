"""Attention layers of a denoiser, their maps, and how maps are captured."""
