"""AuraFlow: joint then single blocks over 8 registers, the text and the image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder

REGISTERS = 8


class AuraFlowFamily(PatchFamily):
    """A pipeline around an `AuraFlowTransformer2DModel`; its text keys begin with the registers."""

    denoisers = ("AuraFlowTransformer2DModel",)
    lora_argument = "attention_kwargs"
    text = (slice(REGISTERS, -1),)
    stacks = (
        ("joint_transformer_blocks", "joint", "attn", (0, 1)),
        ("single_transformer_blocks", "single", "attn", (0, 0)),
    )
    defaults = TRANSFORMER_SETTINGS
    longest_text = 256

    @property
    def tokenizer(self) -> Any:
        """T5's of the pile."""
        return reader(TextEncoder(self.pipe.tokenizer, self.longest_text, first=REGISTERS))

    def timestep(self, call: Call) -> Tensor:
        """The call's 0 to 1 on the scheduler's scale."""
        return super().timestep(call) * 1000

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """Registers and text first, then the image."""
        text = REGISTERS + call["encoder_hidden_states"].shape[1]
        height, width = self.grid(call)
        return slice(text, text + height * width), slice(0, text)
