"""The Gradio demo: see what the model attends to, and steer it. Extra `demo`."""

from attncontrol.demo.app import build_demo, launch
from attncontrol.demo.settings import Limits, Settings

__all__ = ["Limits", "Settings", "build_demo", "launch"]
