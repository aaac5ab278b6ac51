"""Builds and trains the embedded prompt parser."""
