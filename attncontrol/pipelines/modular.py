"""Control as a block of diffusers' modular pipelines."""

from __future__ import annotations

from typing import Any

from diffusers import ModularPipelineBlocks
from diffusers.modular_pipelines import InputParam, OutputParam

from attncontrol.control import attach
from attncontrol.families.modular import stock_like

CONTROL = {
    "control": "A method's name, a method, or methods added up; without it the blocks run as they are.",
    "subjects": "Words or phrases of the prompt, token indices, or groups of them; parsed from the prompt if absent.",
    "layout": "Boxes (x0, y0, x1, y1) in 0..1 per phrase.",
    "record_maps": "Whether to keep attention maps of every step, or a `MapSettings`.",
}


class AttentionControlStep(ModularPipelineBlocks):
    """Runs other blocks, with the denoising among them, under attention control.

    It takes what they take and `control`, `subjects`, `layout`, `record_maps`, as `attncontrol.attach` does, and puts
    `control_record` into the state: per image what was guided.

    Args:
        controlled: The blocks of a whole pipeline, or of its denoising.

    Example:
        pipe = AttentionControlStep(StableDiffusionXLAutoBlocks()).init_pipeline(checkpoint)
        pipe.load_components()
        state = pipe(prompt="a red crown and a blue bow", control="syngen")
        state.images[0], state.control_record.images[0].steps
    """

    def __init__(self, controlled: ModularPipelineBlocks) -> None:
        super().__init__()
        self.controlled = controlled
        self.model_name = controlled.model_name
        self._requirements = controlled._requirements

    @property
    def description(self) -> str:
        """What the block does, for diffusers' tables."""
        return f"Runs {type(self.controlled).__name__} under attention control."

    @property
    def expected_components(self) -> list[Any]:
        """Those of the controlled blocks."""
        return self.controlled.expected_components

    @property
    def expected_configs(self) -> list[Any]:
        """Those of the controlled blocks."""
        return self.controlled.expected_configs

    @property
    def inputs(self) -> list[InputParam]:
        """Those of the controlled blocks, the prompt and what control takes."""
        own = [InputParam(name, description=text) for name, text in CONTROL.items()]
        theirs = self.controlled.inputs
        prompt = [] if any(param.name == "prompt" for param in theirs) else [InputParam("prompt")]
        return [*theirs, *prompt, *own]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """Those of the controlled blocks and the record."""
        record = OutputParam("control_record", description="Per image what was guided; None without control.")
        return [*self.controlled.intermediate_outputs, record]

    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Runs the blocks.

        Raises:
            ValueError: For what `attncontrol.attach` refuses.
        """
        wanted = state.get([*CONTROL, "prompt"])
        state.set("control_record", None)
        if wanted["control"] is None and not wanted["record_maps"]:
            return self.controlled(components, state)
        view = stock_like(components)
        control = attach(
            view,
            wanted["control"],
            prompt=wanted["prompt"],
            subjects=wanted["subjects"],
            layout=wanted["layout"],
            record_maps=wanted["record_maps"] or False,
        )
        with control:
            control.begin()  # the timesteps may have been set by earlier blocks
            components, state = view.run(self.controlled, state)
        state.set("control_record", control.record)
        return components, state
